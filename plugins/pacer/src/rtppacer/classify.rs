// SPDX-License-Identifier: MPL-2.0
//! Which priority a packet has.

use std::collections::HashMap;

use dualstream_common::DataSize;
use gst::glib::translate::from_glib_full;
use gst::prelude::*;
use gst_rtp::RTPBuffer;
use pacer_core::Priority;

/// As in docs/wire-formats.md; read here and not taken from the other plugin's
/// crate, as plugins share nothing but what is on the wire.
const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
const TWCC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// How far upstream caps are looked for.
const DEEPEST: usize = 16;
const MOST_PADS: usize = 128;

const NICKS: [(&str, Priority); 6] = [
    ("audio", Priority::Audio),
    ("retransmission", Priority::Retransmission),
    ("display", Priority::Display),
    ("fec", Priority::Fec),
    ("background", Priority::Background),
    ("padding", Priority::Padding),
];

pub fn nick(priority: Priority) -> &'static str {
    NICKS[priority.index()].0
}

fn from_nick(nick: &str) -> Option<Priority> {
    Some(NICKS.iter().find(|(n, _)| *n == nick)?.1)
}

/// The property `priorities`: fields `pt-<n>` and `ssrc-<n>`, values nicks.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    pts: HashMap<u8, Priority>,
    ssrcs: HashMap<u32, Priority>,
}

impl Roles {
    /// Also says which fields are not understood.
    pub fn parse(s: &gst::StructureRef) -> (Self, Vec<String>) {
        let mut roles = Self::default();
        let mut wrong = Vec::new();
        for (name, value) in s.iter() {
            let name = name.as_str();
            let priority = value.get::<&str>().ok().and_then(from_nick);
            let pt = name.strip_prefix("pt-").and_then(|n| n.parse::<u8>().ok());
            let ssrc = name.strip_prefix("ssrc-").and_then(|n| n.parse().ok());
            match (priority, pt, ssrc) {
                (Some(priority), Some(pt @ 0..128), _) => {
                    roles.pts.insert(pt, priority);
                }
                (Some(priority), _, Some(ssrc)) => {
                    roles.ssrcs.insert(ssrc, priority);
                }
                _ => wrong.push(name.to_owned()),
            }
        }
        (roles, wrong)
    }
}

/// What is known of the streams from caps.
#[derive(Debug)]
pub struct Classifier {
    roles: Roles,
    /// By payload type.
    media: [Option<Priority>; 128],
    /// Caps upstream were looked at for these.
    asked: [bool; 128],
    /// Of caps without a payload type.
    others: Option<Priority>,
    frame_id: Option<u8>,
    twcc_id: Option<u8>,
    rtx_pt: Option<u8>,
}

/// The id under which `caps` negotiate `uri`. The field is the URI, or an
/// array of direction, URI and attributes.
fn extension_id(caps: &gst::StructureRef, uri: &str) -> Option<u8> {
    caps.iter().find_map(|(name, value)| {
        let id = name.as_str().strip_prefix("extmap-")?.parse::<u8>().ok()?;
        let found = match value.get::<gst::Array>() {
            Ok(parts) => parts.get(1)?.get::<&str>().is_ok_and(|u| u == uri),
            Err(_) => value.get::<&str>().is_ok_and(|u| u == uri),
        };
        (id > 0 && found).then_some(id)
    })
}

fn pt_of(s: &gst::StructureRef, name: &str) -> Option<u8> {
    let pt = u8::try_from(s.get::<i32>(name).ok()?).ok()?;
    (pt < 128).then_some(pt)
}

fn role(s: &gst::StructureRef) -> Option<Priority> {
    let encoding = s.get::<&str>("encoding-name").unwrap_or_default();
    let encoding = encoding.to_ascii_uppercase();
    if encoding == "RTX" {
        return Some(Priority::Retransmission);
    }
    if encoding.contains("FEC") {
        return Some(Priority::Fec);
    }
    match s.get::<&str>("media").ok()? {
        "audio" => Some(Priority::Audio),
        _ => Some(Priority::Display),
    }
}

impl Classifier {
    pub fn new(roles: Roles) -> Self {
        Self {
            roles,
            media: [None; 128],
            asked: [false; 128],
            others: None,
            frame_id: None,
            twcc_id: None,
            rtx_pt: None,
        }
    }

    pub fn set_roles(&mut self, roles: Roles) {
        self.roles = roles;
    }

    /// Caps that arrived on the sink pad, or that are found upstream.
    pub fn learn(&mut self, caps: &gst::CapsRef) {
        let Some(s) = caps.structure(0) else { return };
        self.frame_id = extension_id(s, FRAME_URI).or(self.frame_id);
        self.twcc_id = extension_id(s, TWCC_URI).or(self.twcc_id);
        if let Some(pt) = pt_of(s, "rtx-payload") {
            self.learn_rtx(pt);
        }
        let Some(role) = role(s) else { return };
        match pt_of(s, "payload") {
            Some(pt) if role == Priority::Retransmission => self.learn_rtx(pt),
            Some(pt) => self.media[usize::from(pt)] = Some(role),
            None => self.others = Some(role),
        }
    }

    /// Retransmissions have this payload type.
    pub fn learn_rtx(&mut self, pt: u8) {
        if let Some(media) = self.media.get_mut(usize::from(pt)) {
            *media = Some(Priority::Retransmission);
            self.rtx_pt = Some(pt);
        }
    }

    /// Caps changed: what is not known may be found now.
    pub fn ask_again(&mut self) {
        self.asked = [false; 128];
    }

    /// Whether to look upstream for what `pt` is. Once only.
    pub fn wants_caps(&mut self, pt: u8) -> bool {
        let pt = usize::from(pt & 0x7f);
        let unknown = self.media[pt].is_none() && !self.asked[pt];
        self.asked[pt] = true;
        unknown
    }

    pub fn twcc_id(&self) -> Option<u8> {
        self.twcc_id
    }

    /// The payload type of retransmissions, else the highest that no packet
    /// has had. Never one of the media.
    pub fn padding_pt(&self) -> Option<u8> {
        self.rtx_pt.or_else(|| {
            (96..128u8).rev().find(|pt| {
                let i = usize::from(*pt);
                !self.asked[i] && self.media[i].is_none() && !self.roles.pts.contains_key(pt)
            })
        })
    }

    /// Whether packets of this type have been seen or are announced.
    pub fn is_media(&self, pt: u8) -> bool {
        self.media
            .get(usize::from(pt))
            .is_some_and(|m| m.is_some_and(|m| m != Priority::Retransmission))
    }

    pub fn priority(&self, header: Header, buffer: &gst::BufferRef) -> Priority {
        let named = self.roles.ssrcs.get(&header.ssrc);
        if let Some(role) = named.or_else(|| self.roles.pts.get(&header.pt)) {
            return *role;
        }
        let known = self.media[usize::from(header.pt & 0x7f)].or(self.others);
        match known {
            Some(role) if role != Priority::Display => role,
            _ if self.frame_id.is_some_and(|id| is_background(buffer, id)) => Priority::Background,
            _ => Priority::Display,
        }
    }
}

/// What of the RTP header is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub pt: u8,
    pub ssrc: u32,
    pub size: DataSize,
}

impl Header {
    /// `None` if this is no RTP packet.
    pub fn parse(buffer: &gst::BufferRef) -> Option<Self> {
        let mut head = [0; 12];
        // Copying more than there is would panic.
        if buffer.size() < head.len() || buffer.copy_to_slice(0, &mut head).is_err() {
            return None;
        }
        if head[0] >> 6 != 2 {
            return None;
        }
        let [_, pt, .., a, b, c, d] = head;
        let size = (buffer.size() as u64).saturating_add(super::padding::PACKET_OVERHEAD);
        Some(Self {
            pt: pt & 0x7f,
            ssrc: u32::from_be_bytes([a, b, c, d]),
            size: DataSize::from_bytes(size),
        })
    }
}

fn is_background(buffer: &gst::BufferRef, id: u8) -> bool {
    let Ok(rtp) = RTPBuffer::from_buffer_readable(buffer) else {
        return false;
    };
    // 15 is reserved in the one-byte header.
    let short = (1..15)
        .contains(&id)
        .then(|| rtp.extension_onebyte_header(id, 0))
        .flatten();
    let data = short.or_else(|| rtp.extension_twobytes_header(id, 0).map(|(_, data)| data));
    // Version 1 and four bytes, else it says nothing that is known.
    matches!(data, Some([flags, _, _, _]) if flags >> 6 == 1 && flags & 0x10 != 0)
}

/// The pads that `pad` is linked with inside of its element.
fn internal_links(pad: &gst::Pad) -> impl Iterator<Item = gst::Pad> {
    // SAFETY: the pad is alive, and the iterator that is returned is ours.
    // The method of the bindings panics where there is none, as for a pad
    // without a parent.
    let links = unsafe {
        let links = gst::ffi::gst_pad_iterate_internal_links(pad.as_ptr());
        (!links.is_null()).then(|| from_glib_full::<_, gst::Iterator<gst::Pad>>(links))
    };
    links.into_iter().flatten().take(MOST_PADS).flatten()
}

/// What the elements in front of `sinkpad` know: webrtcbin's funnel leaves
/// only the extension of the transport-wide number in its caps.
#[derive(Debug, Default)]
pub struct Upstream {
    pub caps: Vec<gst::Caps>,
    pub rtx_pts: Vec<u8>,
}

impl Upstream {
    pub fn of(sinkpad: &gst::Pad) -> Self {
        let mut found = Self::default();
        let mut left = MOST_PADS;
        found.follow(sinkpad, DEEPEST, &mut left);
        found
    }

    /// From a sink pad to the source pad in front of it, and through its
    /// element to that one's sink pads.
    fn follow(&mut self, sinkpad: &gst::Pad, depth: usize, left: &mut usize) {
        if depth == 0 || *left == 0 {
            return;
        }
        *left -= 1;
        let Some(peer) = sinkpad.peer() else { return };
        if let Some(element) = peer.parent_element() {
            self.ask_for_rtx(&element);
        }
        for inner in internal_links(&peer) {
            let full = inner.current_caps().filter(|caps| {
                caps.structure(0)
                    .is_some_and(|s| s.has_field("media") || s.has_field("encoding-name"))
            });
            match full {
                Some(caps) => self.caps.push(caps),
                None => self.follow(&inner, depth - 1, left),
            }
        }
    }

    fn ask_for_rtx(&mut self, element: &gst::Element) {
        if element.factory().is_none_or(|f| f.name() != "rtprtxsend") {
            return;
        }
        let map = element.property_value("payload-type-map");
        let Ok(Some(map)) = map.get::<Option<gst::Structure>>() else {
            return;
        };
        let pts = map.iter().filter_map(|(_, v)| v.get::<u32>().ok());
        self.rtx_pts
            .extend(pts.filter_map(|v| u8::try_from(v).ok()));
    }
}
