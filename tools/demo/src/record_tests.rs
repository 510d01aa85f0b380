// SPDX-License-Identifier: MPL-2.0
use super::*;
use dualstream_clip::picture::PSNR_MAX_DB;
use dualstream_clip::source::Size;

fn clip() -> Clip {
    Clip {
        file: None,
        size: Some(Size {
            width: 320,
            height: 180,
        }),
        pattern_seconds: None,
    }
}

/// What the file at `path` decodes to.
fn decoded(path: &Path) -> Vec<gst::Sample> {
    let mut pictures = Pictures::open(&Clip {
        file: Some(path.into()),
        size: None,
        pattern_seconds: None,
    })
    .unwrap();
    std::iter::from_fn(|| pictures.read().unwrap()).collect()
}

#[test]
fn shown_pictures_are_compared_by_number_and_recorded_at_the_clips_times() {
    gst::init().unwrap();
    let path = std::env::temp_dir().join(format!("dualstream-demo-{}-rec.mp4", std::process::id()));
    let mut pictures = Pictures::open(&clip()).unwrap();
    let source: Vec<_> = std::iter::from_fn(|| pictures.read().unwrap())
        .take(60)
        .collect();
    // Picture 20 is never shown, 30 is shown as number 31 as well, 10 twice.
    let numbers: Vec<u64> = (0..60).filter(|n| *n != 20).collect();
    let worker = Worker::start(clip(), path.clone(), 320 * 180 * 3 / 2);
    for (index, &number) in numbers.iter().enumerate() {
        let content = if number == 31 { 30 } else { number };
        assert!(worker.push(index, number, source[content as usize].clone()));
        if number == 10 {
            assert!(worker.push(1000, number, source[10].clone()));
        }
    }
    assert!(worker.push(1001, 5, source[5].clone()), "late");
    let compared = worker.finish().unwrap();
    let psnr = |index| {
        compared
            .iter()
            .find(|(i, _)| *i == index)
            .map(|(_, db)| *db)
    };
    for (index, &number) in numbers.iter().enumerate() {
        let db = psnr(index).unwrap();
        if number == 31 {
            assert!(db < 40.0, "another picture: {db}");
        } else {
            assert_eq!(db, PSNR_MAX_DB, "picture {number}");
        }
    }
    assert_eq!(psnr(1000), Some(PSNR_MAX_DB), "a repeat is compared too");
    assert_eq!(psnr(1001), None, "the source is past it");

    let recorded = decoded(&path);
    assert_eq!(recorded.len(), 59);
    let times: Vec<u64> = recorded
        .iter()
        .map(|s| s.buffer().unwrap().pts().unwrap().mseconds())
        .collect();
    assert_eq!(times[0], 0);
    assert!((633..=634).contains(&times[19]), "{times:?}");
    assert!((700..=701).contains(&times[20]), "20 left a gap: {times:?}");
    assert!((1966..=1967).contains(&times[58]), "{times:?}");
    for (recorded, &number) in recorded.iter().zip(&numbers) {
        let content = if number == 31 { 30 } else { number };
        let db = psnr_of(recorded, &source[content as usize]).unwrap();
        assert!(db > 38.0, "picture {number}: {db}");
    }
    std::fs::remove_file(&path).unwrap();
}
