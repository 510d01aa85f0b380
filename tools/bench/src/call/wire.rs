// SPDX-License-Identifier: MPL-2.0
//! UDP packets as they leave and reach this network namespace, whoever sends
//! them. What is protected by SRTP is the same bytes at both ends of the link,
//! so a packet is known again by them.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

/// Larger packets are cut, which their length does not show.
const MOST_BYTES: usize = 2048;
/// In the kernel, before it drops what is not fetched.
const BUFFER_BYTES: libc::c_int = 8 << 20;
const POLL_MS: i64 = 100;
/// 5 minutes at 50 Mbit/s, about.
const MOST_PACKETS: usize = 2_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RTP, of any kind.
    Rtp,
    Rtcp,
    /// STUN, DTLS and what else there is.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// ns since 1970.
    pub at: u64,
    /// With IP and UDP headers.
    pub bytes: u32,
    pub outgoing: bool,
    pub kind: Kind,
    pub hash: u64,
}

/// Listens until it is dropped or finished. Needs root.
pub struct Tap {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Packet>>>,
}

impl Tap {
    pub fn start() -> Result<Self> {
        let socket = open().context("packets cannot be watched (it needs root)")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("tap".into())
            .spawn(move || listen(&socket, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    pub fn finish(mut self, file: &Path) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let packets = self
            .thread
            .take()
            .and_then(|thread| thread.join().ok())
            .context("the tap failed")?;
        write(file, &packets)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(super) fn open() -> std::io::Result<OwnedFd> {
    let failed = std::io::Error::last_os_error;
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain system call; its result is checked.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, all) };
    if raw < 0 {
        return Err(failed());
    }
    // SAFETY: just opened, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let timeout = libc::timeval {
        tv_sec: 0,
        tv_usec: POLL_MS * 1000,
    };
    set(&socket, libc::SO_TIMESTAMPNS, &1)?;
    set(&socket, libc::SO_RCVTIMEO, &timeout)?;
    // Root may go beyond the limit for others.
    set(&socket, libc::SO_RCVBUFFORCE, &BUFFER_BYTES)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> std::io::Result<()> {
    // SAFETY: `value` lives as long as the call and has the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut buffer = [0; MOST_BYTES];
    while !stop.load(Ordering::Relaxed) && packets.len() < MOST_PACKETS {
        if let Some((length, at, outgoing)) = receive(socket, &mut buffer) {
            packets.extend(parse(&buffer[..length], at, outgoing));
        }
    }
    packets
}

/// Length, time, and whether it leaves this machine. `None`: nothing in time,
/// or it is from loopback.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<(usize, u64, bool)> {
    // SAFETY: all zeros is a value of these plain structures.
    let (mut from, mut header): (libc::sockaddr_ll, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut space = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // As control messages want to be aligned.
    let mut control = [0u64; 16];
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    header.msg_iov = &raw mut space;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `header` is to a local that outlives the call,
    // with its length.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let length = usize::try_from(length).ok()?;
    if from.sll_hatype == libc::ARPHRD_LOOPBACK {
        return None;
    }
    let outgoing = match from.sll_pkttype {
        libc::PACKET_HOST => false,
        libc::PACKET_OUTGOING => true,
        _ => return None,
    };
    // SAFETY: the kernel has filled in `header`, whose control buffer is alive.
    let message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if message.is_null() {
        return None;
    }
    // SAFETY: not null, so it is within the control buffer; a message of this
    // type holds a timespec.
    let time: libc::timespec = unsafe {
        if (*message).cmsg_type != libc::SCM_TIMESTAMPNS {
            return None;
        }
        std::ptr::read_unaligned(libc::CMSG_DATA(message).cast())
    };
    let at = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    Some((length, at, outgoing))
}

/// IPv4 and UDP; `None` for all else.
fn parse(packet: &[u8], at: u64, outgoing: bool) -> Option<Packet> {
    const UDP: u8 = 17;
    const UDP_HEADER: usize = 8;
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != UDP {
        return None;
    }
    let header = usize::from(first & 0xf) * 4;
    let bytes = u32::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    // Short packets are padded on the way.
    let end = packet.len().min(bytes as usize);
    let payload = packet.get(header + UDP_HEADER..end)?;
    let kind = match (payload.first()?, payload.get(1)) {
        (128..=191, Some(192..=223)) => Kind::Rtcp,
        (128..=191, Some(_)) => Kind::Rtp,
        _ => Kind::Other,
    };
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    Some(Packet {
        at,
        bytes,
        outgoing,
        kind,
        hash: hasher.finish(),
    })
}

/// A line for each, much shorter than JSON.
fn write(file: &Path, packets: &[Packet]) -> Result<()> {
    let to = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut to = BufWriter::new(to);
    for packet in packets {
        let kind = match packet.kind {
            Kind::Rtp => "rtp",
            Kind::Rtcp => "rtcp",
            Kind::Other => "other",
        };
        let way = if packet.outgoing { "out" } else { "in" };
        writeln!(
            to,
            "{} {} {way} {kind} {:x}",
            packet.at, packet.bytes, packet.hash
        )?;
    }
    to.flush()?;
    Ok(())
}

pub fn read(file: &Path) -> Result<Vec<Packet>> {
    let from = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut packets = Vec::new();
    for line in BufReader::new(from).lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [at, bytes, way, kind, hash] = words[..] else {
            bail!("{}: `{line}` is no packet", file.display());
        };
        packets.push(Packet {
            at: at.parse()?,
            bytes: bytes.parse()?,
            outgoing: way == "out",
            kind: match kind {
                "rtp" => Kind::Rtp,
                "rtcp" => Kind::Rtcp,
                _ => Kind::Other,
            },
            hash: u64::from_str_radix(hash, 16)?,
        });
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(((28 + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0; 8]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn packets_are_told_apart() {
        let kind = |payload: &[u8]| parse(&datagram(payload), 1, true).unwrap().kind;
        assert_eq!(kind(&[0x80, 96, 0, 1]), Kind::Rtp);
        assert_eq!(kind(&[0x80, 0x80 | 96, 0, 1]), Kind::Rtp, "with the marker");
        assert_eq!(kind(&[0x8f, 206, 0, 1]), Kind::Rtcp);
        assert_eq!(kind(&[0, 1, 0, 0]), Kind::Other, "STUN");
        assert_eq!(kind(&[22, 254, 0, 0]), Kind::Other, "DTLS");
    }

    #[test]
    fn a_packet_is_known_by_its_payload_whatever_its_way() {
        let a = datagram(b"\x80\x60payload");
        let mut b = a.clone();
        // Another address, as behind NAT, and padding of the network.
        b[19] = 77;
        b.extend([0; 6]);
        let (a, b) = (parse(&a, 1, true).unwrap(), parse(&b, 2, false).unwrap());
        assert_eq!(a.hash, b.hash);
        assert_eq!((a.bytes, b.bytes), (37, 37));
        let other = parse(&datagram(b"\x80\x60Payload"), 1, true).unwrap();
        assert_ne!(a.hash, other.hash);
    }

    #[test]
    fn what_is_no_udp_is_left_out() {
        let mut tcp = datagram(b"xxxx");
        tcp[9] = 6;
        assert_eq!(parse(&tcp, 1, true), None);
        assert_eq!(parse(&[], 1, true), None);
        assert_eq!(parse(&datagram(b"")[..20], 1, true), None, "cut off");
        assert_eq!(parse(&[0x60; 40], 1, true), None, "IPv6");
    }

    #[test]
    fn packets_are_read_as_they_were_written() {
        let packets = [
            parse(&datagram(b"\x80\x60one"), 1, true).unwrap(),
            parse(&datagram(b"\x80\xc8two"), 2, false).unwrap(),
        ];
        let file = std::env::temp_dir().join(format!("dualstream-call-{}.tap", std::process::id()));
        write(&file, &packets).unwrap();
        let read = read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read, packets);
    }
}
