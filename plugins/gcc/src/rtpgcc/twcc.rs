// SPDX-License-Identifier: MPL-2.0
//! The session's event `RTPTWCCPackets`, and which packets it is about.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{RemoteTime, Timestamp};
use gcc_core::Report;
use gst::glib;
use gst_rtp::RTPBuffer;

pub const EVENT: &str = "RTPTWCCPackets";
pub const URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// No message is about more: its numbers have 16 bits.
const MOST_ENTRIES: usize = 1 << 16;
/// Packets remembered; a report about an older one is believed unseen. Half of
/// the numbers there are would be the most that 16 bits can tell apart.
const MOST_SENT: usize = 16_384;
/// The session notes its time of departure this soon after us.
const MOST_APART: Duration = Duration::from_millis(50);
/// The peer's reference time has 24 bits of 64 ms.
const PERIOD: u64 = (1 << 24) * 64_000_000;

/// The id under which `caps` negotiate transport-wide numbers.
pub fn extension_id(caps: &gst::CapsRef) -> Option<u8> {
    id_of(caps, URI)
}

/// The id of a header extension with one byte of header. The field is the URI,
/// or an array of direction, URI and attributes.
pub fn id_of(caps: &gst::CapsRef, uri: &str) -> Option<u8> {
    caps.structure(0)?.iter().find_map(|(name, value)| {
        let id = name.as_str().strip_prefix("extmap-")?.parse::<u8>().ok()?;
        let found = match value.get::<gst::Array>() {
            Ok(parts) => parts.get(1)?.get::<&str>() == Ok(uri),
            Err(_) => value.get::<&str>() == Ok(uri),
        };
        // The session knows the one-byte header only.
        (found && (1..15).contains(&id)).then_some(id)
    })
}

/// The size of the payload and the marker, if the session will number the
/// packet.
pub fn numbered(buffer: &gst::BufferRef, id: u8) -> Option<(u32, bool)> {
    let rtp = RTPBuffer::from_buffer_readable(buffer).ok()?;
    if !rtp.is_extension() {
        return None;
    }
    rtp.extension_onebyte_header(id, 0)?;
    Some((rtp.payload_size(), rtp.is_marker()))
}

/// One packet of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u16,
    /// When it left, and the size of its payload, as far as the session
    /// remembers.
    pub local: Option<(Timestamp, u32)>,
    /// When it arrived.
    pub remote: Option<u64>,
}

fn field<'a, T: glib::value::FromValue<'a>>(
    s: &'a gst::StructureRef,
    name: &str,
) -> Result<Option<T>, ()> {
    match s.value(name) {
        Ok(value) => value.get().map(Some).map_err(|_| ()),
        Err(_) => Ok(None),
    }
}

fn entry(value: &glib::Value) -> Result<Entry, ()> {
    let s = value.get::<&gst::StructureRef>().map_err(|_| ())?;
    let seq = field::<u32>(s, "seqnum")?.ok_or(())?;
    let time = |name| Ok(field::<u64>(s, name)?.filter(|time| *time != u64::MAX));
    let (local, remote) = (time("local-ts")?, time("remote-ts")?);
    let size = field::<u32>(s, "size")?;
    let lost = field::<bool>(s, "lost")?.unwrap_or(false);
    Ok(Entry {
        seq: u16::try_from(seq).map_err(|_| ())?,
        local: local.map(Timestamp::from_nanos).zip(size),
        remote: remote.filter(|_| !lost),
    })
}

/// What the event says, and how much of it makes no sense.
pub fn entries(s: &gst::StructureRef) -> (Vec<Entry>, u64) {
    let Ok(value) = s.value("packets") else {
        return (Vec::new(), 1);
    };
    let mut wrong = 0;
    let mut list = Vec::new();
    let mut take = |values: &[&glib::Value]| {
        wrong += values.len().saturating_sub(MOST_ENTRIES) as u64;
        for value in values.iter().take(MOST_ENTRIES) {
            match entry(value) {
                Ok(entry) => list.push(entry),
                Err(()) => wrong += 1,
            }
        }
    };
    if let Ok(array) = value.get::<&glib::ValueArray>() {
        take(&array.iter().collect::<Vec<_>>());
    } else if let Ok(array) = value.get::<gst::ArrayRef>() {
        take(&array.iter().map(|value| &**value).collect::<Vec<_>>());
    } else {
        wrong += 1;
    }
    (list, wrong)
}

/// The peer's clock without its turns.
#[derive(Debug, Default)]
pub struct RemoteClock {
    last: Option<u64>,
}

impl RemoteClock {
    fn unwrap(&mut self, remote: u64) -> RemoteTime {
        // The session's sum may have fallen below zero.
        let phase = (remote as i64).rem_euclid(PERIOD as i64) as u64;
        let first = PERIOD + phase;
        let time = match self.last {
            Some(last) if last < u64::MAX / 2 => {
                let near = last - last % PERIOD + phase;
                [near.checked_sub(PERIOD), Some(near), Some(near + PERIOD)]
                    .into_iter()
                    .flatten()
                    .min_by_key(|time| time.abs_diff(last))
                    .unwrap_or(first)
            }
            _ => first,
        };
        self.last = Some(time);
        RemoteTime::from_nanos(time)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Timestamp,
    payload: u32,
}

impl Sent {
    fn is(&self, (at, payload): (Timestamp, u32)) -> bool {
        self.payload == payload && at.distance(self.at).abs() <= MOST_APART
    }
}

/// Which of our packets a number of the session is. Both count one by one, but
/// the session may have begun before us, or have refused a packet.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The latest packets, [`MOST_SENT`] at most.
    sent: VecDeque<Sent>,
    /// Number of the first of them.
    first: u64,
    /// The session's number less ours.
    offset: u16,
    clock: RemoteClock,
    realigned: u64,
}

impl Numbers {
    /// A packet leaves; gives its number.
    pub fn sent(&mut self, at: Timestamp, payload: u32) -> u16 {
        let number = self.first + self.sent.len() as u64;
        self.sent.push_back(Sent { at, payload });
        if self.sent.len() > MOST_SENT {
            self.sent.pop_front();
            self.first += 1;
        }
        number as u16
    }

    /// How often the numbers had to be matched anew.
    pub fn realigned(&self) -> u64 {
        self.realigned
    }

    fn of(&self, seq: u16) -> Option<&Sent> {
        let next = self.first + self.sent.len() as u64;
        let back = (next as u16).wrapping_sub(seq.wrapping_sub(self.offset));
        let index = self.sent.len().checked_sub(usize::from(back))?;
        self.sent.get(index)
    }

    /// The offset that the time of departure speaks for: the session notes it
    /// before the next packet comes by us.
    fn offset_by_time(&self, entry: &Entry) -> Option<u16> {
        let local = entry.local?;
        let after = self.sent.partition_point(|sent| sent.at <= local.0);
        let index = after.checked_sub(1)?;
        self.sent.get(index).filter(|sent| sent.is(local))?;
        Some(entry.seq.wrapping_sub((self.first + index as u64) as u16))
    }

    /// Where most entries are about other packets than they seem to be, finds
    /// the offset on which most agree.
    fn align(&mut self, entries: &[Entry]) {
        let (mut known, mut wrong) = (0usize, 0usize);
        for entry in entries {
            if let Some(local) = entry.local {
                known += 1;
                wrong += usize::from(!self.of(entry.seq).is_some_and(|sent| sent.is(local)));
            }
        }
        if wrong * 2 <= known {
            return;
        }
        let offsets: Vec<u16> = entries
            .iter()
            .filter_map(|entry| self.offset_by_time(entry))
            .collect();
        // The one that is more than half, if there is one (Boyer and Moore).
        let (mut offset, mut votes) = (self.offset, 0usize);
        for candidate in &offsets {
            if votes == 0 {
                offset = *candidate;
            }
            if offset == *candidate {
                votes += 1;
            } else {
                votes -= 1;
            }
        }
        let agree = offsets.iter().filter(|o| **o == offset).count();
        if agree * 2 > known && offset != self.offset {
            self.offset = offset;
            self.realigned += 1;
        }
    }

    /// The entries under our numbers.
    pub fn reports(&mut self, entries: &[Entry]) -> Vec<Report> {
        self.align(entries);
        entries
            .iter()
            .map(|entry| Report {
                seq: entry.seq.wrapping_sub(self.offset),
                arrival: entry.remote.map(|remote| self.clock.unwrap(remote)),
                sent: entry
                    .local
                    .filter(|local| self.of(entry.seq).is_some_and(|sent| sent.is(*local)))
                    .map(|(at, _)| at),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// A packet every 10 ms, of 100 bytes and one more each.
    fn sent(count: u64) -> Numbers {
        let mut numbers = Numbers::default();
        for n in 0..count {
            assert_eq!(numbers.sent(ms(10 * n), 100 + n as u32), n as u16);
        }
        numbers
    }

    /// What the session says of the `n`th packet under `seq`.
    fn entry(n: u64, seq: u16) -> Entry {
        Entry {
            seq,
            local: Some((
                Timestamp::from_nanos(10_000_000 * n + 20_000),
                100 + n as u32,
            )),
            remote: Some(5_000_000_000 + 10_000_000 * n),
        }
    }

    #[test]
    fn numbers_that_agree_stay() {
        let mut numbers = sent(100);
        let reports = numbers.reports(&[entry(90, 90), entry(91, 91)]);
        assert_eq!((reports[0].seq, reports[1].seq), (90, 91));
        assert_eq!(reports[1].sent, Some(Timestamp::from_nanos(910_020_000)));
        assert_eq!(numbers.realigned(), 0);
        let lost = Entry {
            local: None,
            remote: None,
            ..entry(0, 92)
        };
        let reports = numbers.reports(&[lost]);
        assert_eq!((reports[0].arrival, reports[0].sent), (None, None));
    }

    #[test]
    fn a_session_that_began_earlier_or_refused_a_packet_is_followed() {
        for offset in [1u16, 700, 40_000, 65_535] {
            let mut numbers = sent(200);
            let entries: Vec<_> = (150..160)
                .map(|n| entry(n, (n as u16).wrapping_add(offset)))
                .collect();
            let reports = numbers.reports(&entries);
            assert_eq!(numbers.realigned(), 1, "{offset}");
            let seqs: Vec<_> = reports.iter().map(|r| r.seq).collect();
            assert_eq!(seqs, (150..160).collect::<Vec<u16>>());
            assert!(reports.iter().all(|r| r.sent.is_some()));
        }
    }

    #[test]
    fn nonsense_does_not_move_the_numbers() {
        let mut numbers = sent(200);
        // Each speaks for an offset of its own.
        let entries: Vec<_> = (0..100).map(|n| entry(n, (n * n) as u16 + 7)).collect();
        numbers.reports(&entries);
        // Of another time, or of another size.
        let late = Entry {
            local: Some((ms(1_000_000), 100)),
            ..entry(3, 9)
        };
        let large = Entry {
            local: Some((ms(30), 9999)),
            ..entry(3, 9)
        };
        let reports = numbers.reports(&[late, large]);
        assert!(reports.iter().all(|r| r.sent.is_none()));
        assert_eq!(numbers.realigned(), 0);
        assert!(Numbers::default().reports(&entries)[0].sent.is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_numbers_turn() {
        let mut numbers = sent(100_000);
        assert_eq!(numbers.sent.len(), MOST_SENT);
        assert!(
            numbers.reports(&[entry(99_999, 99_999u32 as u16)])[0]
                .sent
                .is_some()
        );
        assert!(numbers.of(99_999u32 as u16 - 20_000).is_none());
        assert!(numbers.of(100_000u32 as u16).is_none(), "not yet sent");
    }

    #[test]
    fn the_clock_of_the_peer_goes_on_over_its_end() {
        let mut clock = RemoteClock::default();
        let before = clock.unwrap(PERIOD - 5);
        let after = clock.unwrap(3);
        assert_eq!(after.since(before), Duration::from_nanos(8));
        let back = clock.unwrap(PERIOD - 4);
        assert_eq!(back.since(before), Duration::from_nanos(1));
        // 4 ns below zero, as the session's sum has it.
        assert_eq!(clock.unwrap(4u64.wrapping_neg()), back);
        for n in 0..100_000u64 {
            clock.unwrap(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }

    #[test]
    fn what_makes_no_sense_is_counted() {
        gst::init().unwrap();
        let parse = |packets: glib::Value| {
            // It has one owner, and stays on this thread.
            let packets = unsafe { glib::SendValue::unsafe_from(packets.into_raw()) };
            let mut s = gst::Structure::new_empty(EVENT);
            s.set_value("packets", packets);
            entries(&s)
        };
        let packet = |text: &str| text.parse::<gst::Structure>().unwrap().to_value();
        let (list, wrong) = parse(
            glib::ValueArray::from_values([
                packet("p, seqnum=(uint)7, local-ts=(guint64)5, remote-ts=(guint64)9, size=(uint)3, lost=(boolean)false"),
                packet("p, seqnum=(uint)8, local-ts=(guint64)5, remote-ts=(guint64)9, size=(uint)3, lost=(boolean)true"),
                packet("p, seqnum=(uint)9"),
                packet("p, seqnum=(uint)10, local-ts=(guint64)18446744073709551615, remote-ts=(guint64)18446744073709551615"),
                packet("p, seqnum=(uint)65536"),
                packet("p, seqnum=(int)7"),
                packet("p, seqnum=(uint)7, remote-ts=(double)nan"),
                packet("p"),
                5u32.to_value(),
            ])
            .to_value(),
        );
        assert_eq!(wrong, 5);
        let whole = Entry {
            seq: 7,
            local: Some((Timestamp::from_nanos(5), 3)),
            remote: Some(9),
        };
        let remote = None;
        assert_eq!(list[0], whole);
        assert_eq!(
            list[1],
            Entry {
                seq: 8,
                remote,
                ..whole
            }
        );
        assert_eq!(
            list[2],
            Entry {
                seq: 9,
                remote,
                local: None
            }
        );
        assert_eq!(
            list[3],
            Entry {
                seq: 10,
                remote,
                local: None
            }
        );
        assert_eq!(entries(&gst::Structure::new_empty(EVENT)).1, 1);
        let s = gst::Structure::builder(EVENT)
            .field("packets", 3i32)
            .build();
        assert_eq!(entries(&s), (Vec::new(), 1));
    }

    use gst::glib::translate::UnsafeFrom;
    use gst::prelude::*;
}
