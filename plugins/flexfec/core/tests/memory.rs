// SPDX-License-Identifier: MPL-2.0
//! A day of packets: nothing is allocated once the buffers have their size.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::*;
use dualstream_common::Timestamp;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Media, Stats};
use flexfec_core::encoder::Format;
use flexfec_core::mask::{Family, Mask};
use flexfec_core::rtp::MutableExtensions;

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    *state >> 33
}

/// 24 hours of 30 frames a second, each of one to three packets, blocks of
/// four frames, a tenth of all packets lost, in virtual time.
#[test]
fn memory_is_flat_over_a_day() {
    let mut seed = 1;
    let mut encoder = encoder(Format::FlexFec03);
    let mut decoder = decoder(Format::FlexFec03);
    let mut block = Block::new(BlockLimits::default());
    let masks: Vec<_> = (0..=12)
        .map(|k| Mask::new(k, k.div_ceil(3), Family::Random))
        .collect();
    let none = MutableExtensions::default();
    let mut packet = Rtp::new(0, 1200).bytes();
    let (mut sequence, mut sent, mut lost, mut recovered) = (0u16, 0u64, 0u64, 0u64);
    let mut warm = None;
    for frame in 0..24 * 3600 * 30u64 {
        let now = Timestamp::from_millis(frame * 1000 / 30);
        for _ in 0..=random(&mut seed) % 3 {
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            sequence = sequence.wrapping_add(1);
            // Small ones, so that a day takes seconds.
            let length = 12 + random(&mut seed) as usize % 64;
            block.push(&packet[..length], &none).unwrap();
            sent += 1;
            if random(&mut seed).is_multiple_of(10) {
                lost += 1;
            } else {
                assert_eq!(decoder.media(now, &packet[..length]), Media::New);
            }
        }
        if frame % 4 == 3 {
            let rows = masks[block.len()].rows();
            encoder
                .encode(&block, rows, 0, |fec| {
                    if !random(&mut seed).is_multiple_of(10) {
                        decoder.fec(now, fec).unwrap();
                    }
                    while decoder.next_recovered().is_some() {
                        recovered += 1;
                    }
                })
                .unwrap();
            block.clear();
        }
        // One hour, in which all has been as full as it gets.
        if frame == 3600 * 30 {
            warm = Some((ALLOCATIONS.get(), decoder.footprint()));
        }
    }
    let (allocations, footprint) = warm.unwrap();
    assert_eq!(
        ALLOCATIONS.get(),
        allocations,
        "nothing is allocated per packet"
    );
    assert_eq!(decoder.footprint(), footprint);
    assert!(footprint < 2 << 20, "{footprint} bytes");
    accounted(&decoder.stats(), sent, lost, recovered);
}

#[track_caller]
fn accounted(stats: &Stats, sent: u64, lost: u64, recovered: u64) {
    assert_eq!(stats.recovered.packets, recovered);
    assert_eq!(stats.media.packets + lost, sent);
    let left = stats.lost + stats.missing;
    assert_eq!(
        left + recovered,
        lost,
        "each lost packet came back or is counted"
    );
    assert!(
        sent > 5_000_000 && left * 2 < lost,
        "{sent} sent, {lost} lost, {left} left"
    );
    assert!(left * 10 > lost, "some cannot come back");
}
