// SPDX-License-Identifier: MPL-2.0
//! Asks a STUN or TURN server as libnice does (RFC 8489, RFC 8656), to learn why
//! it is of no use. What is allocated is given back at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use stun_types::attribute::{ErrorCode, Nonce, RawAttribute, Realm, Username};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageHeader,
    MessageType, MessageWriteVec, Method, TransactionId,
};
use stun_types::prelude::*;

use super::{Login, Problem, Server, Transport, Trouble};

/// RFC 8656 section 17.
const ALLOCATE: Method = Method::new(0x003);
const REFRESH: Method = Method::new(0x004);
/// Section 18.7, and the number of UDP.
const REQUESTED_TRANSPORT: (u16, [u8; 4]) = (0x0019, [17, 0, 0, 0]);
/// Section 18.2, in s.
const LIFETIME: u16 = 0x000d;

/// For an answer, over UDP after several requests.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// From request to request, RFC 8489 section 6.2.1, shorter.
const RESEND: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Nothing that a server says here is longer.
const MOST_BYTES: usize = 2048;

enum Channel {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A kind of answer, and what it says.
struct Answer(Vec<u8>);

impl Answer {
    fn message(&self) -> Result<Message<'_>, Trouble> {
        Message::from_bytes(&self.0).map_err(|_| Trouble::NotStun)
    }
}

impl Channel {
    fn open(server: &Server) -> Result<Self, Trouble> {
        let addresses = (server.host.as_str(), server.port)
            .to_socket_addrs()
            .map_err(|err| Trouble::Unknown(err.to_string()))?;
        let mut address = None;
        for candidate in addresses {
            // As libnice, whose sockets for the other family may not be there.
            if address.is_none() || candidate.is_ipv4() {
                address = Some(candidate);
            }
        }
        let address: SocketAddr =
            address.ok_or_else(|| Trouble::Unknown("it has no address".into()))?;
        if server.transport != Transport::Udp {
            return TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
                .map(Self::Tcp)
                .map_err(|err| Trouble::Refused(err.to_string()));
        }
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            Ok(socket)
        });
        // No network at all.
        socket.map(Self::Udp).map_err(|_| Trouble::Silent)
    }

    fn ask(&mut self, request: &[u8], id: TransactionId) -> Result<Answer, Trouble> {
        match self {
            Self::Udp(socket) => ask_udp(socket, request, id),
            Self::Tcp(stream) => ask_tcp(stream, request, id).map_err(|err| match err.kind() {
                ErrorKind::InvalidData => Trouble::NotStun,
                _ => Trouble::Refused(err.to_string()),
            }),
        }
    }
}

fn is_answer(bytes: &[u8], id: TransactionId) -> bool {
    MessageHeader::from_bytes(bytes)
        .is_ok_and(|header| header.transaction_id() == id && header.get_type().is_response())
}

fn ask_udp(socket: &UdpSocket, request: &[u8], id: TransactionId) -> Result<Answer, Trouble> {
    let end = Instant::now() + ANSWER_TIMEOUT;
    let mut strange = false;
    while Instant::now() < end {
        // Refused by the host is as silent: the answer to an earlier packet.
        let _ = socket.send(request);
        let resend = Instant::now() + RESEND;
        loop {
            let left = resend.saturating_duration_since(Instant::now());
            if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
                break;
            }
            let mut bytes = [0; MOST_BYTES];
            match socket.recv(&mut bytes) {
                Ok(count) if is_answer(&bytes[..count], id) => {
                    return Ok(Answer(bytes[..count].to_vec()));
                }
                Ok(_) => strange = true,
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break;
                }
                Err(_) => {
                    // An ICMP message: there is nobody now.
                    std::thread::sleep(left);
                    break;
                }
            }
        }
    }
    Err(if strange {
        Trouble::NotStun
    } else {
        Trouble::Silent
    })
}

fn ask_tcp(stream: &mut TcpStream, request: &[u8], id: TransactionId) -> std::io::Result<Answer> {
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(request)?;
    let end = Instant::now() + ANSWER_TIMEOUT;
    let mut bytes = Vec::new();
    loop {
        if let Ok(header) = MessageHeader::from_bytes(&bytes) {
            let whole = MessageHeader::LENGTH + usize::from(header.data_length());
            if whole > MOST_BYTES || !is_answer(&bytes, id) {
                return Err(ErrorKind::InvalidData.into());
            }
            if bytes.len() >= whole {
                bytes.truncate(whole);
                return Ok(Answer(bytes));
            }
        } else if bytes.len() >= MessageHeader::LENGTH {
            return Err(ErrorKind::InvalidData.into());
        }
        if Instant::now() >= end {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 512];
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// What a server wants to be told to let us in.
struct Challenge {
    realm: String,
    nonce: String,
}

fn challenge(answer: &Message<'_>) -> Option<Challenge> {
    Some(Challenge {
        realm: answer.attribute::<Realm>().ok()?.realm().to_owned(),
        nonce: answer.attribute::<Nonce>().ok()?.nonce().to_owned(),
    })
}

/// The request and its number. None if it cannot be written: the name, say, is
/// longer than STUN allows.
fn request(
    method: Method,
    attribute: Option<(u16, [u8; 4])>,
    login: Option<(&Login, &Challenge)>,
) -> Option<(Vec<u8>, TransactionId)> {
    let id = TransactionId::generate();
    let kind = MessageType::from_class_method(MessageClass::Request, method);
    let mut message = Message::builder(kind, id, MessageWriteVec::new());
    if let Some((kind, value)) = attribute {
        message
            .add_attribute(&RawAttribute::new(kind.into(), &value))
            .ok()?;
    }
    if let Some((login, challenge)) = login {
        message
            .add_attribute(&Username::new(&login.user).ok()?)
            .ok()?;
        message
            .add_attribute(&Realm::new(&challenge.realm).ok()?)
            .ok()?;
        message
            .add_attribute(&Nonce::new(&challenge.nonce).ok()?)
            .ok()?;
        let key = LongTermKeyCredentials::new(
            login.user.clone(),
            login.password.clone(),
            challenge.realm.clone(),
        );
        // That is libnice's, too.
        message
            .add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1)
            .ok()?;
    }
    Some((message.finish(), id))
}

fn code(answer: &Message<'_>) -> Trouble {
    match answer.attribute::<ErrorCode>() {
        Ok(error) => Trouble::Code(error.code(), error.reason().to_owned()),
        Err(_) => Trouble::NotStun,
    }
}

fn is_success(answer: &Message<'_>) -> bool {
    answer.has_class(MessageClass::Success)
}

fn allocate(channel: &mut Channel, login: &Login) -> Result<(), Trouble> {
    let lifetime = |seconds: u32| Some((LIFETIME, seconds.to_be_bytes()));
    let (bytes, id) =
        request(ALLOCATE, Some(REQUESTED_TRANSPORT), None).ok_or(Trouble::NotLetIn)?;
    let answer = channel.ask(&bytes, id)?;
    let answer = answer.message()?;
    if is_success(&answer) {
        // It lets in everybody.
        if let Some((bytes, id)) = request(REFRESH, lifetime(0), None) {
            let _ = channel.ask(&bytes, id);
        }
        return Ok(());
    }
    let Some(challenge) = challenge(&answer) else {
        return Err(code(&answer));
    };
    let login = Some((login, &challenge));
    let (bytes, id) =
        request(ALLOCATE, Some(REQUESTED_TRANSPORT), login).ok_or(Trouble::NotLetIn)?;
    let answer = channel.ask(&bytes, id)?;
    let answer = answer.message()?;
    if is_success(&answer) {
        if let Some((bytes, id)) = request(REFRESH, lifetime(0), login) {
            // If it does not hear that, it forgets it after some minutes.
            let _ = channel.ask(&bytes, id);
        }
        return Ok(());
    }
    Err(match code(&answer) {
        Trouble::Code(ErrorCode::UNAUTHORIZED | ErrorCode::WRONG_CREDENTIALS, _) => {
            Trouble::NotLetIn
        }
        other => other,
    })
}

/// What is wrong with it, if anything is. Takes some seconds at most, the
/// resolver's aside.
pub fn probe(server: &Server) -> Option<Problem> {
    let result = match &server.login {
        Some(_) if server.transport == Transport::Tls => Err(Trouble::NoTls),
        Some(login) => Channel::open(server).and_then(|mut channel| allocate(&mut channel, login)),
        None => Channel::open(server).and_then(|mut channel| {
            let (bytes, id) = request(BINDING, None, None).ok_or(Trouble::NotStun)?;
            let answer = channel.ask(&bytes, id)?;
            let answer = answer.message()?;
            if is_success(&answer) {
                Ok(())
            } else {
                Err(code(&answer))
            }
        }),
    };
    result.err().map(|trouble| Problem {
        server: server.clone(),
        trouble,
    })
}
