// SPDX-License-Identifier: MPL-2.0
//! The network stands still for seconds.

use crate::common::*;

/// Packets of a frame.
const SIZE: u16 = 10;

fn packets(n: u32) -> Vec<Packet> {
    frame(n as u16 * SIZE, SIZE, n)
}

/// Frames 0 to 31 have come but for one packet, which was asked for.
fn before() -> Fixture {
    let mut f = Fixture::new("do-retransmission=true rtx-hedge=false");
    for n in 0..30 {
        f.push_all(due_us(n), &packets(n));
    }
    f.until_out(300);
    f.push_all(due_us(30), &packets(30)[3..]);
    f.until("requests", |f| f.up.named(RTX).len() == 3);
    f.up.clear();
    f
}

#[test]
fn what_was_asked_for_before_it_begins_no_new_stream_after_it() {
    let mut f = before();
    let now = due_us(150);
    f.set_us(now);
    f.until_out(300 + 7);
    f.out.clear();
    f.push_all(now, &packets(150));
    // The answers come seconds late, and ahead of what is sent now.
    for packet in &packets(30)[..3] {
        let late = Packet {
            retransmitted: true,
            ..packet.clone()
        };
        f.push(now + 1000, &late);
    }
    f.push_all(due_us(151), &packets(151));
    f.until_out(20);
    assert_eq!((f.stat("restarts"), f.stat("num-astray")), (0, 0));
    assert_eq!(f.stat("num-late"), 3);
}

#[test]
fn more_than_can_be_repaired_is_not_waited_for() {
    let mut f = before();
    // A second later: 290 packets are missing.
    let now = due_us(60);
    f.set_us(now);
    f.until_out(300 + 7);
    f.out.clear();
    f.up.clear();
    f.push_all(now, &packets(60));
    f.until_out(10);
    assert_eq!(f.stat("num-hopeless"), 290);
    assert!(f.up.named(RTX).is_empty());
    // The next loss is an ordinary one.
    f.push_all(due_us(61), &packets(61)[1..]);
    f.until("a request", |f| f.up.named(RTX).len() == 1);
}
