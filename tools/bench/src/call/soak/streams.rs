// SPDX-License-Identifier: MPL-2.0
//! RTP streams as they are seen on the wire at one end, each by its SSRC and its
//! sequence numbers, which SRTP leaves in the clear; in constant memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::judge::Identity;
use crate::call::wire;

/// Sources at one end; more are not looked at.
const MOST_STREAMS: usize = 64;
/// Packets that may overtake each other and still be known as repeated or not.
const WINDOW: u64 = 1024;
const MOST_BYTES: usize = 2048;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub payload_type: u8,
    /// Without those that came before.
    pub packets: u64,
    pub bytes: u64,
    pub repeated: u64,
    /// Unwrapped sequence numbers.
    pub first: u64,
    pub last: u64,
    /// Of the last `WINDOW` numbers those that were seen.
    #[serde(skip)]
    seen: Vec<u64>,
}

impl Stream {
    fn add(&mut self, sequence: u16, bytes: usize) {
        let number = if self.seen.is_empty() {
            self.seen = vec![u64::MAX; WINDOW as usize];
            // Room for what was overtaken.
            self.first = (1 << 16) + u64::from(sequence);
            self.last = self.first;
            self.first
        } else {
            let step = sequence.wrapping_sub(self.last as u16) as i16;
            self.last.saturating_add_signed(i64::from(step))
        };
        let seen = &mut self.seen[(number % WINDOW) as usize];
        if *seen == number {
            self.repeated += 1;
            return;
        }
        *seen = number;
        self.packets += 1;
        self.bytes += bytes as u64;
        self.first = self.first.min(number);
        self.last = self.last.max(number);
    }

    /// Numbers from the first to the last that were not seen.
    pub fn missing(&self) -> u64 {
        (self.last - self.first + 1).saturating_sub(self.packets)
    }
}

/// By SSRC, in hexadecimal digits.
pub type Streams = BTreeMap<String, Stream>;

/// Sequence number, SSRC and payload type of a datagram with an RTP packet.
fn parse(packet: &[u8]) -> Option<(u16, u32, u8)> {
    const UDP: u8 = 17;
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != UDP {
        return None;
    }
    let rtp = packet.get(usize::from(first & 0xf) * 4 + 8..)?;
    let [a, b, s0, s1, _, _, _, _, c0, c1, c2, c3] = *rtp.first_chunk::<12>()?;
    // RTCP has 192 to 223 there.
    (a >> 6 == 2 && !(192..=223).contains(&b)).then_some((
        u16::from_be_bytes([s0, s1]),
        u32::from_be_bytes([c0, c1, c2, c3]),
        b & 0x7f,
    ))
}

/// Listens until it is dropped.
pub struct Tap {
    streams: Arc<Mutex<Streams>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Of packets that leave or reach this machine.
    pub fn start(outgoing: bool) -> Result<Self> {
        let socket = wire::open().context("packets cannot be watched (it needs root)")?;
        let (streams, stop) = (
            Arc::<Mutex<Streams>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (to, stopped) = (streams.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("tap".into())
            .spawn(move || {
                let mut buffer = [0; MOST_BYTES];
                while !stopped.load(Ordering::Relaxed) {
                    let Some((length, _, is_outgoing)) = wire::receive(&socket, &mut buffer) else {
                        continue;
                    };
                    let Some((sequence, ssrc, payload_type)) = parse(&buffer[..length]) else {
                        continue;
                    };
                    if is_outgoing != outgoing {
                        continue;
                    }
                    let mut streams = to.lock().unwrap_or_else(PoisonError::into_inner);
                    let name = format!("{ssrc:08x}");
                    if streams.len() < MOST_STREAMS || streams.contains_key(&name) {
                        let stream = streams.entry(name).or_default();
                        stream.payload_type = payload_type;
                        stream.add(sequence, length);
                    }
                }
            })?;
        Ok(Self {
            streams,
            stop,
            thread: Some(thread),
        })
    }

    pub fn streams(&self) -> Streams {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What left against what came, of each stream: received + lost = sent.
/// `is_ours`: the receiver's RTP session knows the stream; others on this machine may
/// have sessions, too.
pub fn compare(
    sent: &Streams,
    received: &Streams,
    is_ours: impl Fn(&str) -> bool,
) -> Vec<Identity> {
    let mut identities = Vec::new();
    for (ssrc, stream) in sent {
        let name = format!("wire {ssrc} (type {})", stream.payload_type);
        identities.push(Identity::new(
            format!("{name}: sent = last - first + 1"),
            stream.packets + stream.repeated,
            stream.last - stream.first + 1,
        ));
        let Some(came) = received.get(ssrc) else {
            continue;
        };
        // Both unwrap from their own first one.
        let modulo = |a: u64, b: u64| u64::from((a as u16).wrapping_sub(b as u16));
        let before = modulo(came.first, stream.first);
        let behind = modulo(stream.last, came.last);
        let lost = came.missing() + before + behind;
        identities.push(Identity::new(
            format!(
                "{name}: sent = received + lost ({lost}, {:.2} %)",
                lost as f64 * 100.0 / stream.packets.max(1) as f64
            ),
            stream.packets,
            came.packets + lost,
        ));
    }
    let is_stray = |ssrc: &str| !sent.contains_key(ssrc) && is_ours(ssrc);
    for (ssrc, stream) in received.iter().filter(|(ssrc, _)| is_stray(ssrc)) {
        identities.push(Identity::new(
            format!("wire {ssrc}: received and never sent"),
            stream.packets,
            0,
        ));
    }
    identities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(numbers: impl IntoIterator<Item = u16>) -> Stream {
        let mut stream = Stream::default();
        for number in numbers {
            stream.add(number, 100);
        }
        stream
    }

    #[test]
    fn numbers_are_unwrapped_and_repetitions_known() {
        let all = (65_000..=65_535).chain(0..500).map(|n: u32| n as u16);
        let whole = stream(all.clone());
        assert_eq!(
            (whole.packets, whole.missing(), whole.repeated),
            (1036, 0, 0)
        );
        let lossy = stream(all.filter(|n| n % 50 != 1));
        assert_eq!(lossy.packets + lossy.missing(), 1036);
        let odd = stream([5, 7, 6, 7, 5, 4]);
        assert_eq!((odd.packets, odd.missing(), odd.repeated), (4, 0, 2));
    }

    #[test]
    fn received_and_lost_are_what_was_sent() {
        let of = |ssrc: &str, stream: Stream| -> Streams { [(ssrc.to_owned(), stream)].into() };
        let sent = of("7", stream(0..1000));
        let came = of("7", stream((2..990).filter(|n| n % 10 != 0)));
        let identities = compare(&sent, &came, |_| true);
        assert!(identities.iter().all(Identity::holds), "{identities:?}");
        let mut more = sent.clone();
        more.extend(of("8", stream(0..3)));
        assert!(!compare(&sent, &more, |_| true).iter().all(Identity::holds));
        let foreign = compare(&sent, &more, |ssrc| ssrc != "8");
        assert!(foreign.iter().all(Identity::holds), "{foreign:?}");
        let gap = of("7", stream((0..1000).filter(|n| *n != 500)));
        assert!(!compare(&gap, &came, |_| true).iter().all(Identity::holds));
    }

    #[test]
    fn rtp_is_found_in_datagrams() {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([0x90, 0xe0, 1, 2, 0, 0, 0, 0, 0xa, 0xb, 0xc, 0xd]);
        assert_eq!(parse(&packet), Some((0x102, 0x0a0b_0c0d, 96)));
        packet[29] = 200;
        assert_eq!(parse(&packet), None, "RTCP");
        assert_eq!(parse(&packet[..30]), None);
    }
}
