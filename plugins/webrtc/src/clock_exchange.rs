// SPDX-License-Identifier: MPL-2.0
//! How a receiver learns the clock of its sender: RTCP extended reports (RFC
//! 3611), receiver reference time (section 4.4) and its answer (section 4.5).
//!
//! ```text
//! receiver                                  sender
//!    T1 -- XR: RRTR(T1) ------------------>  T2
//!    T4 <- XR: RRTR(T3), DLRR(T1, T3-T2) --  T3
//!
//! round trip = T4 - T1 - (T3 - T2)
//! sender's clock less ours = T3 + round trip / 2 - T4
//! ```
//!
//! The offset is wrong by half of the difference of the two ways at most; the
//! exchange with the shortest round trip of late counts, as in NTP (RFC 5905,
//! clock filter). Deliberate differences from the RFC: the answer comes at once
//! and not with the next report; nothing is negotiated (`a=rtcp-xr`), as blocks
//! that are not known are passed over. T3 is also taken from a sender report in
//! the same compound packet, for senders that add no RRTR.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::capture_time::NtpTime;
use crate::rtp;

const XR: u8 = 207;
const RRTR: u8 = 4;
const DLRR: u8 = 5;

/// Requests that are remembered.
const MOST_REQUESTS: usize = 8;
/// Exchanges that count: these many, and as old as this.
const MOST_SAMPLES: usize = 64;
const SPAN: Duration = Duration::from_secs(60);
/// Clocks of crystals drift apart by this much, so older exchanges are worth
/// less: 50 ppm.
const DRIFT_NS_PER_S: u64 = 50_000;

/// Answered at most so often.
pub const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// What the middle 32 bits of an NTP time are in reports.
fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// A packet of blocks, behind an empty receiver report.
fn packet(own: u32, blocks: &[u8]) -> Vec<u8> {
    let mut packet = rtp::receiver_report(own);
    let words = (1 + blocks.len() / 4) as u16;
    packet.extend([0x80, XR]);
    packet.extend(words.to_be_bytes());
    packet.extend(own.to_be_bytes());
    packet.extend(blocks);
    packet
}

fn reference_time(now: NtpTime) -> Vec<u8> {
    let mut block = vec![RRTR, 0, 0, 2];
    block.extend(now.to_fixed().to_be_bytes());
    block
}

/// What a receiver asks.
pub fn request(own: u32, now: NtpTime) -> Vec<u8> {
    packet(own, &reference_time(now))
}

/// A request as it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub ssrc: u32,
    /// Its time, 32.32 bit seconds.
    pub ntp: u64,
    pub came: NtpTime,
}

impl Request {
    pub fn reply(&self, own: u32, now: NtpTime) -> Vec<u8> {
        let held = u64::try_from(now.since(self.came)).unwrap_or(0);
        // In 1/65536 s.
        let held = u128::from(held) * 65_536 / 1_000_000_000;
        let mut blocks = reference_time(now);
        blocks.extend([DLRR, 0, 0, 3]);
        blocks.extend(self.ssrc.to_be_bytes());
        blocks.extend(middle(self.ntp).to_be_bytes());
        blocks.extend(u32::try_from(held).unwrap_or(u32::MAX).to_be_bytes());
        packet(own, &blocks)
    }
}

/// One sub-block of a DLRR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    ssrc: u32,
    last: u32,
    delay: u32,
}

#[derive(Debug, Default)]
struct Blocks {
    /// SSRC and time.
    reference: Option<(u32, u64)>,
    answers: Vec<Answer>,
}

/// The blocks of a compound packet; what makes no sense is passed over.
fn parse(compound: &[u8]) -> Blocks {
    let mut found = Blocks::default();
    for (_, kind, data) in rtp::rtcp_packets(compound) {
        let Some((ssrc, mut rest)) = data.split_first_chunk::<4>() else {
            continue;
        };
        if kind != XR {
            continue;
        }
        while let Some(([block, _, a, b], tail)) = rest.split_first_chunk::<4>() {
            let length = 4 * usize::from(u16::from_be_bytes([*a, *b]));
            let Some((body, tail)) = tail.split_at_checked(length) else {
                break;
            };
            rest = tail;
            match *block {
                RRTR => {
                    if let Some(ntp) = body.first_chunk::<8>() {
                        found.reference =
                            Some((u32::from_be_bytes(*ssrc), u64::from_be_bytes(*ntp)));
                    }
                }
                DLRR => {
                    let words = |w: &[u8; 12]| {
                        let [a, b, c] =
                            [0, 4, 8].map(|at| [w[at], w[at + 1], w[at + 2], w[at + 3]]);
                        Answer {
                            ssrc: u32::from_be_bytes(a),
                            last: u32::from_be_bytes(b),
                            delay: u32::from_be_bytes(c),
                        }
                    };
                    let answers = body.as_chunks::<12>().0.iter().take(32).map(words);
                    found.answers.extend(answers);
                }
                _ => {}
            }
        }
    }
    found
}

/// The request in a compound packet.
pub fn parse_request(compound: &[u8], came: NtpTime) -> Option<Request> {
    let blocks = parse(compound);
    // Answers have a time, too, and are not answered.
    let (ssrc, ntp) = blocks.reference.filter(|_| blocks.answers.is_empty())?;
    Some(Request { ssrc, ntp, came })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The sender's clock less ours, in ns.
    pub offset: i64,
    pub round_trip: u64,
}

/// The receiver's side.
#[derive(Debug, Default)]
pub struct Exchange {
    asked: VecDeque<NtpTime>,
    samples: VecDeque<(Instant, Relation)>,
}

impl Exchange {
    pub fn asked(&mut self, now: NtpTime) {
        if self.asked.len() >= MOST_REQUESTS {
            self.asked.pop_front();
        }
        self.asked.push_back(now);
    }

    /// A compound packet came in.
    pub fn on_packet(&mut self, time: Instant, now: NtpTime, compound: &[u8]) {
        let blocks = parse(compound);
        let report = || Some(rtp::sender_reports(compound).first()?.ntp);
        let Some(theirs) = blocks.reference.map(|(_, ntp)| ntp).or_else(report) else {
            return;
        };
        let theirs = NtpTime::from_fixed(theirs);
        for answer in blocks.answers {
            let is_it = |asked: &NtpTime| middle(asked.to_fixed()) == answer.last;
            let Some(at) = self.asked.iter().position(is_it) else {
                continue;
            };
            let Some(asked) = self.asked.remove(at) else {
                continue;
            };
            let held = (u64::from(answer.delay) * 1_000_000_000) >> 16;
            let passed = now.since(asked);
            // Else one of the clocks was set meanwhile.
            let Ok(round_trip) = u64::try_from(passed.saturating_sub_unsigned(held)) else {
                continue;
            };
            let offset = theirs
                .since(now)
                .saturating_add(i64::try_from(round_trip / 2).unwrap_or(i64::MAX));
            if self.samples.len() >= MOST_SAMPLES {
                self.samples.pop_front();
            }
            let relation = Relation { offset, round_trip };
            self.samples.push_back((time, relation));
        }
    }

    pub fn relation(&self, now: Instant) -> Option<Relation> {
        self.samples
            .iter()
            .map(|(at, relation)| (now.saturating_duration_since(*at), relation))
            .filter(|(age, _)| *age <= SPAN)
            .min_by_key(|(age, relation)| relation.round_trip / 2 + age.as_secs() * DRIFT_NS_PER_S)
            .map(|(_, relation)| *relation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> NtpTime {
        NtpTime::from_nanos(3_900_000_000_000_000_000).plus(ms * 1_000_000)
    }

    /// Worked out by hand from RFC 3611 sections 2, 4.4 and 4.5.
    #[test]
    fn blocks_are_laid_out_as_the_rfc_says() {
        let time = NtpTime::from_fixed(0x0102_0304_8000_0000);
        assert_eq!(
            request(7, time)[8..],
            [
                0x80, 207, 0, 4, 0, 0, 0, 7, 4, 0, 0, 2, 1, 2, 3, 4, 0x80, 0, 0, 0
            ]
        );
        let asked = parse_request(&request(7, time), time).unwrap();
        let reply = asked.reply(9, time.plus(500_000_000));
        assert_eq!(
            reply[8..12],
            [0x80, 207, 0, 8],
            "SSRC, three words of time, four of the answer"
        );
        assert_eq!(
            reply[28..],
            [5, 0, 0, 3, 0, 0, 0, 7, 3, 4, 0x80, 0, 0, 0, 0x80, 0]
        );
        assert_eq!(parse_request(&reply, time), None, "no answer to an answer");
    }

    /// One exchange: ways of so many ms, the sender's clock ahead by `ahead`.
    fn exchange(e: &mut Exchange, time: Instant, start: i64, ways: (i64, i64), ahead: i64) {
        e.asked(at(start));
        let came = at(start + ways.0 + ahead);
        let request = parse_request(&request(1, at(start)), came).unwrap();
        let reply = request.reply(2, came.plus(3_000_000));
        e.on_packet(time, at(start + ways.0 + 3 + ways.1), &reply);
    }

    #[test]
    fn the_shortest_round_trip_tells_the_offset() {
        let mut e = Exchange::default();
        let start = Instant::now();
        assert_eq!(e.relation(start), None);
        exchange(&mut e, start, 0, (80, 20), -500);
        let relation = e.relation(start).unwrap();
        let ms = |ns: i64| (ns + 500_000).div_euclid(1_000_000);
        assert_eq!(ms(relation.round_trip as i64), 100);
        assert_eq!(ms(relation.offset), -470, "half of the difference beside");
        exchange(&mut e, start, 1000, (20, 20), -500);
        assert_eq!(ms(e.relation(start).unwrap().offset), -500);
        exchange(&mut e, start, 2000, (200, 20), -500);
        assert_eq!(ms(e.relation(start).unwrap().offset), -500);
        assert_eq!(e.relation(start + SPAN * 2), None, "too old");
    }

    #[test]
    fn answers_that_were_not_asked_for_say_nothing() {
        let mut e = Exchange::default();
        let start = Instant::now();
        let forged = Request {
            ssrc: 1,
            ntp: 77 << 16,
            came: at(0),
        };
        e.on_packet(start, at(10), &forged.reply(2, at(5)));
        assert_eq!(e.relation(start), None);
        // Held longer than the whole exchange took.
        e.asked(at(0));
        let liar = parse_request(&request(1, at(0)), at(0)).unwrap();
        e.on_packet(start, at(10), &liar.reply(2, at(5000)));
        assert_eq!(e.relation(start), None);
    }

    #[test]
    fn whatever_comes_does_no_harm() {
        let request = parse_request(&request(7, at(0)), at(0)).unwrap();
        let data = request.reply(9, at(4));
        for cut in 0..data.len() {
            for value in 0..=255 {
                let mut broken = data[..=cut].to_vec();
                broken[cut] = value;
                let mut e = Exchange::default();
                e.asked(at(0));
                e.on_packet(Instant::now(), at(9), &broken);
                let _ = parse_request(&broken, at(9));
            }
        }
    }
}
