// SPDX-License-Identifier: MPL-2.0
//! The session's event `RTPTWCCPackets`: which packets arrived, in order of
//! sending.

use gst::glib;

pub const EVENT: &str = "RTPTWCCPackets";

/// No message is about more: its numbers have 16 bits.
const MOST_ENTRIES: usize = 1 << 16;
/// A message that begins further back than this is of another count. Larger
/// than any reordering of feedback, smaller than half of the numbers.
const FURTHEST_BACK: i16 = -4096;

/// The number of a packet, and whether it arrived.
fn entry(value: &glib::Value) -> Option<(u16, bool)> {
    let s = value.get::<&gst::StructureRef>().ok()?;
    let seq = u16::try_from(s.get::<u32>("seqnum").ok()?).ok()?;
    let lost = match s.value("lost") {
        Ok(lost) => lost.get::<bool>().ok()?,
        Err(_) => s.get::<u64>("remote-ts").is_err(),
    };
    Some((seq, !lost))
}

/// What the event says, and how much of it makes no sense.
fn entries(s: &gst::StructureRef) -> (Vec<(u16, bool)>, u64) {
    let Ok(value) = s.value("packets") else {
        return (Vec::new(), 1);
    };
    let values: Vec<&glib::Value> = if let Ok(array) = value.get::<&glib::ValueArray>() {
        array.iter().take(MOST_ENTRIES).collect()
    } else if let Ok(array) = value.get::<gst::ArrayRef>() {
        return collect(array.iter().take(MOST_ENTRIES).map(|value| &**value));
    } else {
        return (Vec::new(), 1);
    };
    collect(values.into_iter())
}

fn collect<'a>(values: impl Iterator<Item = &'a glib::Value>) -> (Vec<(u16, bool)>, u64) {
    let mut wrong = 0;
    let list = values
        .filter_map(|value| {
            let entry = entry(value);
            wrong += u64::from(entry.is_none());
            entry
        })
        .collect();
    (list, wrong)
}

/// Takes each packet once.
#[derive(Debug, Default)]
pub struct Feedback {
    last: Option<u16>,
}

impl Feedback {
    /// For each packet that was not reported before, whether it arrived; and
    /// how much of the event makes no sense.
    pub fn take(&mut self, s: &gst::StructureRef) -> (Vec<bool>, u64) {
        let (entries, wrong) = entries(s);
        let ahead = |seq: u16, last: u16| seq.wrapping_sub(last) as i16;
        if let (Some(last), Some((first, _))) = (self.last, entries.first())
            && ahead(*first, last) < FURTHEST_BACK
        {
            self.last = None;
        }
        let mut news = Vec::with_capacity(entries.len());
        for (seq, arrived) in entries {
            if self.last.is_none_or(|last| ahead(seq, last) > 0) {
                self.last = Some(seq);
                news.push(arrived);
            }
        }
        (news, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::prelude::*;

    fn event(packets: glib::Value) -> gst::Structure {
        use gst::glib::translate::UnsafeFrom;
        // It has one owner, and stays on this thread.
        let packets = unsafe { glib::SendValue::unsafe_from(packets.into_raw()) };
        let mut s = gst::Structure::new_empty(EVENT);
        s.set_value("packets", packets);
        s
    }

    fn packet(seq: u32, lost: bool) -> glib::Value {
        gst::Structure::builder("p")
            .field("seqnum", seq)
            .field("lost", lost)
            .build()
            .to_value()
    }

    fn message(packets: impl IntoIterator<Item = (u32, bool)>) -> gst::Structure {
        let packets = packets.into_iter().map(|(seq, lost)| packet(seq, lost));
        event(glib::ValueArray::from_values(packets).to_value())
    }

    #[test]
    fn each_packet_is_taken_once_and_numbers_turn() {
        gst::init().unwrap();
        let mut feedback = Feedback::default();
        let first = message([(65_534, false), (65_535, true), (0, false)]);
        assert_eq!(feedback.take(&first), (vec![true, false, true], 0));
        assert_eq!(feedback.take(&first), (vec![], 0), "again");
        let next = message([(65_535, false), (0, false), (1, true)]);
        assert_eq!(feedback.take(&next), (vec![false], 0), "one is new");
    }

    #[test]
    fn a_count_that_begins_anew_is_followed() {
        gst::init().unwrap();
        let mut feedback = Feedback::default();
        feedback.take(&message([(30_000, false)]));
        assert_eq!(
            feedback.take(&message([(7, false), (8, true)])).0,
            [true, false]
        );
    }

    #[test]
    fn what_makes_no_sense_is_counted() {
        gst::init().unwrap();
        let mut feedback = Feedback::default();
        let text = |text: &str| text.parse::<gst::Structure>().unwrap().to_value();
        let packets = [
            text("p, seqnum=(uint)1"),
            text("p, seqnum=(uint)2, remote-ts=(guint64)9"),
            text("p, seqnum=(uint)3, lost=(int)1"),
            text("p, seqnum=(uint)65536, lost=(boolean)false"),
            text("p"),
            5u32.to_value(),
        ];
        let taken = feedback.take(&event(glib::ValueArray::from_values(packets).to_value()));
        assert_eq!(taken, (vec![false, true], 4));
        assert_eq!(
            feedback.take(&gst::Structure::new_empty(EVENT)),
            (vec![], 1)
        );
        assert_eq!(feedback.take(&event(3i32.to_value())), (vec![], 1));
        let array = gst::Array::from_values([packet(9, true).try_into_send()]);
        assert_eq!(feedback.take(&event(array.to_value())), (vec![false], 0));
    }

    trait IntoSend {
        fn try_into_send(self) -> glib::SendValue;
    }

    impl IntoSend for glib::Value {
        fn try_into_send(self) -> glib::SendValue {
            self.get::<gst::Structure>().unwrap().to_send_value()
        }
    }
}
