// SPDX-License-Identifier: MPL-2.0
//! What goes into each part has to come out, be dropped, or be held. The fields are
//! those of the elements' `stats`; docs/soak.md has the table.

use super::Told;
use super::judge::Identity;
use super::totals::{Counts, Totals};

/// Feedback is made when packets come: of the last ones there is none.
const UNREPORTED: f64 = 64.0;
/// Payload types whose sources the RTP session keeps. It forgets one that is seldom
/// heard, as those of FEC and of retransmissions are, and begins to count anew.
const MEDIA: [u8; 2] = [96, 111];

/// The sum of a field of all elements of a factory; `field` may be in a structure
/// of theirs, `*.field` in any.
fn sum(counts: &Counts, factory: &str, field: &str) -> f64 {
    let prefix = format!("{factory}:");
    let matches = |name: &str| {
        let Some((_, path)) = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.split_once('.'))
        else {
            return false;
        };
        match field.strip_prefix("*.") {
            Some(last) => path.contains('.') && path.rsplit('.').next() == Some(last),
            None => path == field,
        }
    };
    let found = counts.iter().filter(|(name, _)| matches(name));
    found.map(|(_, value)| value).sum()
}

struct Account<'a> {
    counts: &'a Counts,
    who: &'static str,
    identities: Vec<Identity>,
}

impl Account<'_> {
    fn sum(&self, factory: &str, fields: &[&str]) -> f64 {
        fields
            .iter()
            .map(|field| sum(self.counts, factory, field))
            .sum()
    }

    fn own(&self, field: &str) -> f64 {
        self.counts.get(field).copied().unwrap_or(0.0)
    }

    fn has(&self, factory: &str) -> bool {
        let prefix = format!("{factory}:");
        self.counts.keys().any(|name| name.starts_with(&prefix))
    }

    fn same(&mut self, what: &str, left: f64, right: f64) {
        self.within(what, left, right, 0.0);
    }

    fn within(&mut self, what: &str, left: f64, right: f64, slack: f64) {
        self.identities.push(Identity {
            what: format!("{}, {what}", self.who),
            left,
            right,
            slack,
        });
    }
}

pub fn identities(sender: &Told, receiver: &Told) -> Vec<Identity> {
    let mut identities = of_sender(&sender.totals);
    identities.extend(of_receiver(&receiver.totals));
    identities
}

fn packets(totals: &Totals) -> f64 {
    totals
        .streams
        .values()
        .map(|s| (s.packets + s.repeated) as f64)
        .sum()
}

fn of_sender(totals: &Totals) -> Vec<Identity> {
    let mut a = Account {
        counts: &totals.counts,
        who: "sender",
        identities: Vec::new(),
    };
    a.same(
        "gate: pictures in = encoded + dropped",
        a.own("pictures"),
        a.own("peer.pictures-encoded") + a.own("peer.pictures-dropped"),
    );
    a.same(
        "encoder: pictures in + left out as it was too slow = given by the gate",
        a.sum("dualh264enc", &["pictures"]) + a.own("peer.pictures-late"),
        a.own("peer.pictures-encoded"),
    );
    a.same(
        "encoder: given to encoders = display + background + lost",
        a.sum("dualh264enc", &["encoder-calls"]),
        a.sum(
            "dualh264enc",
            &["display-frames", "background-frames", "pictures-lost"],
        ),
    );
    a.same(
        "encoder: frames out = display + background",
        a.sum("dualh264enc", &["frames-left"]),
        a.sum("dualh264enc", &["display-frames", "background-frames"]),
    );
    if a.has("rtpflexfecenc") {
        a.same(
            "FEC: media in = protected + unprotected + held",
            a.sum("rtpflexfecenc", &["media-packets"]),
            a.sum("rtpflexfecenc", &["protected", "unprotected", "held"]),
        );
        a.same(
            "FEC: media in = packets out of rtptrickle",
            a.sum("rtpflexfecenc", &["media-packets"]),
            a.sum("rtptrickle", &["background-packets", "other-packets"]),
        );
    }
    if a.has("rtppacer") {
        let out = [
            "*.sent-packets",
            "*.expired-packets",
            "*.evicted-packets",
            "*.refused-packets",
            "*.flushed-packets",
            "*.queued-packets",
        ];
        a.same(
            "pacer: in = out + expired + evicted + refused + flushed + held",
            a.sum("rtppacer", &["*.pushed-packets"]),
            a.sum("rtppacer", &out),
        );
        a.same(
            "pacer: nothing is held at the end",
            a.sum("rtppacer", &["*.queued-packets", "behind-event"]),
            0.0,
        );
        if a.has("rtpgcc") {
            a.same(
                "estimator: packets in = sent by the pacer + its padding and probes",
                a.sum("rtpgcc", &["packets"]),
                a.sum("rtppacer", &["*.sent-packets", "padding-packets"]),
            );
        }
    }
    if a.has("rtpgcc") {
        a.same(
            "wire: packets = passed by the estimator",
            packets(totals),
            a.sum("rtpgcc", &["packets"]),
        );
        a.within(
            "estimator: sent = received + lost + forgotten, but for the last ones",
            a.sum("rtpgcc", &["sent-packets"]),
            a.sum(
                "rtpgcc",
                &["received-packets", "lost-packets", "forgotten-packets"],
            ),
            UNREPORTED,
        );
    }
    a.identities
}

fn of_receiver(totals: &Totals) -> Vec<Identity> {
    let mut a = Account {
        counts: &totals.counts,
        who: "receiver",
        identities: Vec::new(),
    };
    let is_media = |pt: u8| MEDIA.contains(&pt);
    for (ssrc, stream) in totals
        .streams
        .iter()
        .filter(|(_, s)| is_media(s.payload_type))
    {
        let source = format!("source:{ssrc}.packets-received");
        if let Some(received) = totals.counts.get(&source) {
            a.same(
                &format!("RTP session: packets of {ssrc} = on the wire"),
                *received,
                (stream.packets + stream.repeated) as f64,
            );
        }
    }
    if a.has("rtpflexfecdec") {
        a.same(
            "FEC: in = media + duplicates + recovered before + late + ignored + malformed + FEC",
            a.sum("rtpflexfecdec", &["received"]),
            a.sum(
                "rtpflexfecdec",
                &[
                    "media-packets",
                    "duplicates",
                    "already-recovered",
                    "late",
                    "ignored",
                    "malformed",
                    "fec-packets",
                ],
            ),
        );
    }
    if a.has("rtpflexfecdec") && a.has("rtpkalmanjitterbuffer") {
        a.same(
            "jitter buffers: in = in of FEC - FEC - malformed + recovered",
            a.sum("rtpkalmanjitterbuffer", &["num-received"]),
            a.sum("rtpflexfecdec", &["received", "recovered"])
                - a.sum("rtpflexfecdec", &["fec-packets", "malformed"]),
        );
    }
    if a.has("rtpkalmanjitterbuffer") {
        a.same(
            "jitter buffers: in = out + late + duplicates + astray + dropped + undecodable + held",
            a.sum("rtpkalmanjitterbuffer", &["num-received"]),
            a.sum(
                "rtpkalmanjitterbuffer",
                &[
                    "num-pushed",
                    "num-late",
                    "num-duplicates",
                    // Let in where they begin a new stream, which ours never do.
                    "num-astray",
                    "num-dropped",
                    "num-undecodable",
                    "held-packets",
                ],
            ),
        );
        a.same(
            "jitter buffers: nothing is held at the end",
            a.sum("rtpkalmanjitterbuffer", &["held-packets"]),
            0.0,
        );
    }
    a.same(
        "decoder: pictures = shown + duplicates + late + background + hidden + unknown + flushed + held",
        a.sum("dualh264dec", &["pictures"]),
        a.sum(
            "dualh264dec",
            &[
                "shown",
                "duplicates",
                "late",
                "background-decoded",
                "untagged-hidden",
                "unknown",
                "flushed",
                "held",
            ],
        ),
    );
    a.within(
        "screen: pictures = shown by the decoder",
        a.own("pictures"),
        a.sum("dualh264dec", &["shown"]),
        // In the sink.
        1.0,
    );
    a.identities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_summed_over_elements_and_structures() {
        let counts: Counts = [
            ("rtppacer:pacer.display.sent-packets".to_owned(), 3.0),
            ("rtppacer:pacer.audio.sent-packets".to_owned(), 4.0),
            ("rtppacer:pacer.behind-event".to_owned(), 1.0),
            ("rtppacers:x.audio.sent-packets".to_owned(), 100.0),
            ("rtpflexfecenc:fec-0.media-packets".to_owned(), 5.0),
            ("rtpflexfecenc:fec-1.media-packets".to_owned(), 6.0),
        ]
        .into();
        assert_eq!(sum(&counts, "rtppacer", "*.sent-packets"), 7.0);
        assert_eq!(sum(&counts, "rtppacer", "sent-packets"), 0.0);
        assert_eq!(sum(&counts, "rtppacer", "behind-event"), 1.0);
        assert_eq!(sum(&counts, "rtpflexfecenc", "media-packets"), 11.0);
    }

    #[test]
    fn a_packet_that_vanishes_is_seen() {
        let mut totals = Totals::default();
        let mut set = |name: &str, value: f64| {
            totals.counts.insert(name.to_owned(), value);
        };
        set("rtppacer:pacer.display.pushed-packets", 10.0);
        set("rtppacer:pacer.display.sent-packets", 8.0);
        set("rtppacer:pacer.display.expired-packets", 2.0);
        let pacer = |totals: &Totals| {
            let all = of_sender(totals);
            all.into_iter()
                .find(|i| i.what.contains("pacer: in"))
                .is_some_and(|i| i.holds())
        };
        assert!(pacer(&totals));
        totals
            .counts
            .insert("rtppacer:pacer.display.sent-packets".to_owned(), 7.0);
        assert!(!pacer(&totals));
    }
}
