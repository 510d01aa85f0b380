// SPDX-License-Identifier: MPL-2.0
//! tools/aiortc/barcode.py draws and reads what this crate reads and draws.
//! Skipped where ci/install-deps.sh could not install aiortc.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dualstream_clip::barcode::Stamp;
use dualstream_clip::picture::Luma;

const NOW: u64 = 1_700_000_000_123_000_000;
/// Width, height and stride: as the bench has them, and where edges are rounded.
const SIZES: [(usize, usize, usize); 4] = [
    (1280, 720, 1280),
    (640, 360, 704),
    (322, 182, 322),
    (854, 480, 896),
];
/// Numbers and times in ms before `NOW`.
const STAMPS: [(u16, u64); 4] = [(0, 0), (1, 33), (0x5555, 5_000), (0xffff, 7_000_000)];

/// Reads each picture from stdin, says what it reads, and draws it anew.
const SCRIPT: &str = "
import sys, barcode
now, *sizes = map(int, sys.argv[1:])
for width, height, stride in zip(*[iter(sizes)] * 3):
    for _ in range(4):
        number, captured = barcode.read(sys.stdin.buffer.read(stride * height), stride, width, height, now)
        drawn = bytearray(b'\\x5a' * (stride * height))
        barcode.write(drawn, stride, width, height, number, captured)
        sys.stdout.buffer.write(number.to_bytes(2, 'little') + captured.to_bytes(8, 'little') + drawn)
";

/// Where ci/install-deps.sh puts it.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let python = cache.join("gst-dualstream/aiortc/bin/python");
    python.is_file().then_some(python)
}

#[test]
fn python_and_rust_read_each_others_bar_codes() {
    let Some(python) = python() else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: aiortc not installed (ci/install-deps.sh check)"
        );
        return;
    };
    let cases: Vec<_> = SIZES
        .iter()
        .flat_map(|size| STAMPS.iter().map(move |stamp| (*size, *stamp)))
        .collect();
    let mut pictures = Vec::new();
    for ((width, height, stride), (number, before)) in &cases {
        let mut luma = vec![90u8; stride * height];
        let captured = NOW - before * 1_000_000;
        Stamp::new(*number, captured).write(&mut luma, *stride, *width, *height);
        pictures.push(luma);
    }
    let sizes = SIZES.iter().flat_map(|(w, h, s)| [w, h, s]);
    let mut child = Command::new(python)
        .args(["-B", "-c", SCRIPT, &NOW.to_string()])
        .args(sizes.map(ToString::to_string))
        .env(
            "PYTHONPATH",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../aiortc"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = pictures.clone();
    // It may end early: then its answer is too short.
    let writer = std::thread::spawn(move || sent.iter().try_for_each(|p| stdin.write_all(p)));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "Python could not read a picture");
    let mut rest = &output.stdout[..];
    for (((width, height, stride), (number, before)), ours) in cases.into_iter().zip(&pictures) {
        let case = format!("{number}, {before} ms, {width}x{height}");
        let (head, tail) = rest.split_at(10);
        let (data, tail) = tail.split_at(stride * height);
        rest = tail;
        let captured = NOW - before * 1_000_000;
        assert_eq!(head[..2], number.to_le_bytes(), "{case}: the number read");
        assert_eq!(head[2..], captured.to_le_bytes(), "{case}: the time read");
        let luma = Luma {
            width,
            height,
            stride,
            data,
        };
        let read = Stamp::read(luma).unwrap_or_else(|| panic!("{case}: not drawn clearly"));
        assert_eq!(
            (read.number, read.captured(NOW)),
            (number, captured),
            "{case}"
        );
        assert!(data == &ours[..], "{case}: drawn elsewhere than by Rust");
    }
    assert!(rest.is_empty());
}
