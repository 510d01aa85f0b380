// SPDX-License-Identifier: MPL-2.0
use super::*;

/// As webrtcbin writes it, with two streams of which one has RTX, and audio.
const OFFER: &str = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
    a=group:BUNDLE video0 video1 audio2\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\n\
    c=IN IP4 0.0.0.0\r\na=mid:video0\r\na=sendonly\r\n\
    a=rtpmap:96 H264/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtcp-fb:96 transport-cc\r\na=fmtp:96 packetization-mode=1\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
    a=ssrc-group:FID 1111 2222\r\n\
    a=ssrc:1111 msid:user1 track1\r\na=ssrc:1111 cname:user1\r\n\
    a=ssrc:2222 msid:user1 track1\r\na=ssrc:2222 cname:user1\r\na=fingerprint:x\r\n\
    m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=bundle-only\r\n\
    a=rtpmap:96 h264/90000\r\na=ssrc:3333 msid:user1 track2\r\na=ssrc:3333 cname:user1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 110\r\na=rtpmap:110 opus/48000/2\r\na=ssrc:4444 cname:a\r\n";

/// An answer of webrtcbin: it passes over what it does not know.
const ANSWER: &str = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=recvonly\r\n\
    a=rtpmap:96 H264/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 transport-cc\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=fingerprint:x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 H264/90000\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 110\r\na=rtpmap:110 opus/48000/2\r\n";

/// SSRCs from 5001 on.
fn counter() -> impl FnMut() -> u32 {
    let mut last = 5000;
    move || {
        last += 1;
        last
    }
}

fn offer() -> String {
    offer_flexfec(OFFER, counter())
}

fn lines_of(sdp: &str, section: usize) -> Vec<&str> {
    split(sdp).1.swap_remove(section).0
}

#[track_caller]
fn assert_in_order(lines: &[&str], expected: &[&str]) {
    let mut rest = lines.iter();
    for line in expected {
        assert!(
            rest.any(|l| l == line),
            "{line} not at its place: {lines:#?}"
        );
    }
}

#[test]
fn each_stream_is_offered_with_its_own_group_behind_the_medias_sources() {
    let offer = offer();
    // 110 is Opus in the same bundle.
    assert_in_order(
        &lines_of(&offer, 0),
        &[
            "m=video 9 UDP/TLS/RTP/SAVPF 96 97 127",
            "a=rtpmap:96 H264/90000",
            "a=rtpmap:97 rtx/90000",
            "a=rtpmap:127 flexfec-03/90000",
            "a=fmtp:127 repair-window=10000000",
            "a=rtcp-fb:127 transport-cc",
            "a=ssrc-group:FID 1111 2222",
            "a=ssrc:2222 cname:user1",
            "a=ssrc-group:FEC-FR 1111 5001",
            "a=ssrc:5001 msid:user1 track1",
            "a=ssrc:5001 cname:user1",
            "a=fingerprint:x",
        ],
    );
    let second = lines_of(&offer, 1);
    assert_in_order(
        &second,
        &[
            "m=video 0 UDP/TLS/RTP/SAVPF 96 127",
            "a=ssrc:3333 cname:user1",
            "a=ssrc-group:FEC-FR 3333 5002",
            "a=ssrc:5002 msid:user1 track2",
        ],
    );
    assert!(
        !second.iter().any(|line| line.contains("transport-cc")),
        "no feedback for FEC where there is none for the media"
    );
    assert_eq!(lines_of(&offer, 2), lines_of(OFFER, 2), "audio stays");
    assert_eq!(
        flexfec(&offer),
        [
            Some(FlexFec {
                pt: 127,
                groups: vec![(1111, 5001)],
                repair_window: Some(10_000_000)
            }),
            Some(FlexFec {
                pt: 127,
                groups: vec![(3333, 5002)],
                repair_window: Some(10_000_000)
            }),
            None
        ]
    );
}

#[test]
fn a_description_is_changed_once_and_else_keeps_its_lines() {
    let offer = offer();
    assert_eq!(offer_flexfec(&offer, counter()), offer);
    let without: Vec<_> = offer
        .lines()
        .filter(|line| !line.contains("127 ") && !line.contains("FEC-FR") && !line.contains(":500"))
        .map(|line| line.strip_suffix(" 127").unwrap_or(line))
        .collect();
    assert_eq!(without, OFFER.lines().collect::<Vec<_>>());
}

#[test]
fn ssrcs_and_payload_types_in_use_are_not_taken_again() {
    let mut drawn = [0, 1111, 4444, 7, 7, 3333, 8].into_iter();
    let offer = offer_flexfec(OFFER, move || drawn.next().unwrap_or(9));
    let groups: Vec<_> = flexfec(&offer)
        .into_iter()
        .flatten()
        .flat_map(|fec| fec.groups)
        .collect();
    assert_eq!(groups, [(1111, 7), (3333, 8)]);
    // Nothing new to be had: nothing is offered.
    assert_eq!(offer_flexfec(OFFER, || 1111), OFFER);

    let free = OFFER.replace("110", "111");
    assert_eq!(
        flexfec(&offer_flexfec(&free, counter()))[0]
            .as_ref()
            .map(|f| f.pt),
        Some(110)
    );
    let all: String = (35..64).chain(96..128).map(|pt| format!(" {pt}")).collect();
    let full = OFFER.replace("SAVPF 96 97", &format!("SAVPF{all}"));
    assert_eq!(offer_flexfec(&full, counter()), full);
}

#[test]
fn an_answer_takes_what_the_offer_has() {
    let (offer, answer) = (offer(), answer_flexfec(ANSWER, &offer()));
    assert_in_order(
        &lines_of(&answer, 0),
        &[
            "m=video 9 UDP/TLS/RTP/SAVPF 96 97 127",
            "a=rtpmap:127 flexfec-03/90000",
            "a=fmtp:127 repair-window=10000000",
            "a=rtcp-fb:127 transport-cc",
            "a=fingerprint:x",
        ],
    );
    assert!(!answer.contains("FEC-FR"), "a receiver has no sources");
    assert_eq!(lines_of(&answer, 2), lines_of(ANSWER, 2));
    assert_eq!(
        accepted_flexfec(&offer, &answer),
        [Some((127, 1111, 5001)), Some((127, 3333, 5002)), None]
    );
    assert_eq!(answer_flexfec(&answer, &offer), answer, "once");
}

#[test]
fn nothing_is_answered_that_was_not_offered() {
    assert_eq!(answer_flexfec(ANSWER, OFFER), ANSWER);
    assert_eq!(answer_flexfec(ANSWER, ""), ANSWER);
    // The second stream alone.
    let mut second = lines_of(OFFER, 1)
        .join("\r\n")
        .replace("a=bundle-only", "a=x");
    second.insert_str(0, "v=0\r\n");
    assert_eq!(
        answer_flexfec(ANSWER, &offer_flexfec(&second, counter())),
        ANSWER
    );
    // A payload type that means something else in the answer.
    let other = ANSWER.replace("97", "127");
    assert_eq!(answer_flexfec(&other, &offer()), other);
    // Refused sections stay as they are.
    for refused in [
        ANSWER.replace("m=video 9", "m=video 0"),
        ANSWER.replace("a=rtpmap:96", "a=inactive\r\na=rtpmap:96"),
        ANSWER.replace("H264", "VP8"),
    ] {
        assert_eq!(answer_flexfec(&refused, &offer()), refused);
    }
}

#[test]
fn a_peer_without_it_refuses_by_leaving_it_out() {
    let (offer, answer) = (offer(), answer_flexfec(ANSWER, &offer()));
    assert_eq!(accepted_flexfec(&offer, ANSWER), [None, None, None]);
    assert_eq!(accepted_flexfec(OFFER, &answer), [None, None, None]);
    assert_eq!(accepted_flexfec(&offer, ""), [None, None, None]);
    assert_eq!(
        accepted_flexfec(&offer, &answer.replace("127", "126")),
        [None, None, None],
        "under another number"
    );
    let first_only = answer.replacen("SAVPF 96 127", "SAVPF 96", 1);
    assert_eq!(
        accepted_flexfec(&offer, &first_only),
        [Some((127, 1111, 5001)), None, None],
        "the rtpmap alone is not enough"
    );
}

/// As Chromium 156 offers it with FlexFEC on: other codecs first, the groups
/// before the sources, several H.264 profiles.
#[test]
fn what_a_browser_offers_is_read_and_answered() {
    let offer = "m=video 9 UDP/TLS/RTP/SAVPF 103 104 107 108 49\r\n\
        a=rtpmap:103 H264/90000\r\na=rtpmap:104 rtx/90000\r\na=rtpmap:107 H264/90000\r\n\
        a=rtpmap:108 rtx/90000\r\na=rtpmap:49 flexfec-03/90000\r\n\
        a=rtcp-fb:49 goog-remb\r\na=rtcp-fb:49 transport-cc\r\n\
        a=fmtp:49 repair-window=10000000\r\n\
        a=ssrc-group:FID 10 11\r\na=ssrc-group:FEC-FR 10 12\r\n\
        a=ssrc:10 cname:c\r\na=ssrc:11 cname:c\r\na=ssrc:12 cname:c\r\n";
    assert_eq!(
        flexfec(offer),
        [Some(FlexFec {
            pt: 49,
            groups: vec![(10, 12)],
            repair_window: Some(10_000_000)
        })]
    );
    let answer = answer_flexfec(
        "m=video 9 UDP/TLS/RTP/SAVPF 103\r\na=rtpmap:103 H264/90000\r\n",
        offer,
    );
    assert_eq!(accepted_flexfec(offer, &answer), [Some((49, 10, 12))]);
}

#[test]
fn ulpfec_and_nack_are_read() {
    let red = "m=video 9 UDP/TLS/RTP/SAVPF 96 98 99\r\na=rtpmap:96 H264/90000\r\n\
        a=rtpmap:98 red/90000\r\na=rtpmap:99 ulpfec/90000\r\na=rtcp-fb:96 nack\r\n";
    assert_eq!(has_ulpfec(red), [true]);
    assert_eq!(has_ulpfec(&red.replace("red", "x")), [false]);
    assert_eq!(has_ulpfec(&red.replace(" 98 99", " 98")), [false]);
    assert_eq!(has_ulpfec(OFFER), [false, false, false]);
    assert!(has_nack(red) && has_nack(ANSWER));
    assert!(!has_nack(&red.replace("nack", "nack pli")));
    assert!(!has_nack(""));
}

/// A description comes from the network: any text is read without a panic,
/// and what is kept of it is bounded.
#[test]
fn nonsense_is_passed_over() {
    let good = [offer(), answer_flexfec(ANSWER, &offer())];
    let groups = "a=ssrc-group:FEC-FR 1 2\r\n".repeat(1000);
    let many = good[0].replace("a=ssrc-group:FID", &format!("{groups}a=ssrc-group:FID"));
    assert_eq!(
        flexfec(&many)[0].as_ref().map(|f| f.groups.len()),
        Some(MOST_GROUPS)
    );
    let same = good[0].replace("FEC-FR 1111 5001", "FEC-FR 1111 1111");
    assert_eq!(flexfec(&same)[0].as_ref().map(|f| f.groups.len()), Some(0));
    assert_eq!(accepted_flexfec(&same, &good[1])[0], None);
    let media = good[0].replace("a=rtpmap:127 flexfec-03", "a=rtpmap:96 flexfec-03");
    assert_eq!(
        flexfec(&media)[0],
        None,
        "it must not take the media's number"
    );
    for broken in [
        "a=rtpmap:127 flexfec-03/90000",
        "m=",
        "m=video",
        "m=video 9 x 300 -1 abc\r\na=rtpmap:300 flexfec-03/90000\r\na=rtpmap:300 H264/90000",
        "m=video 9 x 96\r\na=rtpmap:\r\na=rtpmap:96\r\na=ssrc:\r\na=ssrc-group:\r\na=fmtp:",
        "m=video 9 x 96\r\na=rtpmap:96 H264/90000\r\na=ssrc-group:FEC-FR 1\r\na=ssrc:99999999999 x",
    ] {
        for other in [broken, &good[0], &good[1]] {
            let _ = accepted_flexfec(broken, other);
            let _ = answer_flexfec(other, &offer_flexfec(broken, counter()));
            let _ = answer_flexfec(broken, other);
            let _ = (has_nack(broken), has_ulpfec(broken));
        }
    }
    // Cut anywhere, and with any line left out or doubled.
    for text in &good {
        for cut in 0..text.len() {
            let _ = answer_flexfec(&text[..cut], &good[0]);
            let _ = accepted_flexfec(&text[..cut], &good[1]);
        }
        let lines: Vec<_> = text.lines().collect();
        for index in 0..lines.len() {
            let mut changed = lines.clone();
            changed.remove(index);
            let _ = accepted_flexfec(&changed.join("\r\n"), &good[1]);
            changed.insert(index, lines[0]);
            let _ = offer_flexfec(&changed.join("\r\n"), counter());
        }
    }
}
