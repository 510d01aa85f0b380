// SPDX-License-Identifier: MPL-2.0
//! Elements that are made by factory name, and where they come from.

/// Factory and what to install for it.
type Requirement = (&'static str, &'static str);

const COMMON: &[Requirement] = &[
    ("webrtcbin", "GStreamer's webrtc plugin (gst-plugins-bad)"),
    ("nicesink", "GStreamer's nice plugin (libnice)"),
    ("dtlssrtpenc", "GStreamer's dtls plugin (gst-plugins-bad)"),
    ("srtpenc", "GStreamer's srtp plugin (gst-plugins-bad)"),
    ("rtpbin", "GStreamer's rtpmanager plugin (gst-plugins-good)"),
    ("rtph264pay", "GStreamer's rtp plugin (gst-plugins-good)"),
    (
        "rtphdrextdualstream",
        "the dualstream plugin (libgstdualstream)",
    ),
    ("rtcpiframefeedback", "the feedback plugin (libgstfeedback)"),
];

pub const SENDER: &[Requirement] = &[
    (
        "videoconvert",
        "GStreamer's videoconvertscale plugin (gst-plugins-base)",
    ),
    ("clocksync", "GStreamer's core elements"),
    ("dualh264enc", "the dualstream plugin (libgstdualstream)"),
    ("rtptrickle", "the dualstream plugin (libgstdualstream)"),
    ("rtppacer", "the pacer plugin (libgstpacer)"),
    ("rtpgcc", "the gcc plugin (libgstgcc)"),
    ("rtpflexfecenc", "the flexfec plugin (libgstflexfec)"),
];

pub const AUDIO_SENDER: &[Requirement] = &[
    (
        "audioconvert",
        "GStreamer's audioconvert plugin (gst-plugins-base)",
    ),
    (
        "audioresample",
        "GStreamer's audioresample plugin (gst-plugins-base)",
    ),
    ("opusenc", "GStreamer's opus plugin (gst-plugins-base)"),
    ("rtpopuspay", "GStreamer's rtp plugin (gst-plugins-good)"),
];

pub const AUDIO_RECEIVER: &[Requirement] = &[
    ("opusdec", "GStreamer's opus plugin (gst-plugins-base)"),
    ("rtpopusdepay", "GStreamer's rtp plugin (gst-plugins-good)"),
];

pub const RECEIVER: &[Requirement] = &[
    ("dualh264dec", "the dualstream plugin (libgstdualstream)"),
    ("rtpflexfecdec", "the flexfec plugin (libgstflexfec)"),
    (
        "rtpkalmanjitterbuffer",
        "the jitterbuffer plugin (libgstjitterbuffer)",
    ),
];

/// The first element that cannot be made, as an error for the user.
pub fn check(own: &[Requirement]) -> Result<(), gst::ErrorMessage> {
    for (factory, from) in own.iter().chain(COMMON) {
        if gst::ElementFactory::find(factory).is_none() {
            return Err(missing(factory, from));
        }
    }
    Ok(())
}

fn missing(factory: &str, from: &str) -> gst::ErrorMessage {
    gst::error_msg!(
        gst::CoreError::MissingPlugin,
        ("The element {factory} is missing: install {from}"),
        ["set GST_PLUGIN_PATH to where it is, and see `gst-inspect-1.0 {factory}`"]
    )
}

/// Makes an element that [`check`] found; `name` empty for a name of its own.
pub fn make(factory: &str, name: &str) -> Result<gst::Element, gst::ErrorMessage> {
    let mut builder = gst::ElementFactory::make(factory);
    if !name.is_empty() {
        builder = builder.name(name);
    }
    builder.build().map_err(|_| {
        let from = SENDER
            .iter()
            .chain(RECEIVER)
            .chain(AUDIO_SENDER)
            .chain(AUDIO_RECEIVER)
            .chain(COMMON)
            .find(|(known, _)| *known == factory)
            .map_or("the plugin that has it", |(_, from)| from);
        missing(factory, from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_plugin() {
        gst::init().unwrap();
        let err = check(&[("no-such-element", "the moon plugin")]).unwrap_err();
        assert!(format!("{err:?}").contains("install the moon plugin"));
    }
}
