// SPDX-License-Identifier: MPL-2.0
#![allow(unused_doc_comments)] // GStreamer's documentation sections
/**
 * plugin-doctorfaulty:
 *
 * H.264 encoders as broken drivers make them, for the doctor's tests.
 */
use gst::glib;
use gst::prelude::*;

/// What an encoder does with its first picture.
#[derive(Clone, Copy)]
enum Fault {
    Hang,
    Crash,
    Error,
}

mod imp {
    use super::Fault;
    use gst::glib;
    use gst::prelude::*;
    use gst::subclass::prelude::*;
    use std::sync::LazyLock;

    /// Type and class data differ by fault only.
    macro_rules! encoder {
        ($name:ident, $wrapper:ident, $type_name:literal, $fault:expr) => {
            #[derive(Default)]
            pub struct $name;

            #[glib::object_subclass]
            impl ObjectSubclass for $name {
                const NAME: &'static str = $type_name;
                type Type = super::$wrapper;
                type ParentType = gst::Element;
            }

            impl ObjectImpl for $name {
                fn constructed(&self) {
                    self.parent_constructed();
                    let pads = super::pads(<Self as ElementImpl>::pad_templates(), $fault);
                    for pad in pads {
                        let _ = self.obj().add_pad(&pad);
                    }
                }
            }

            impl GstObjectImpl for $name {}

            impl ElementImpl for $name {
                fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
                    static METADATA: LazyLock<gst::subclass::ElementMetadata> =
                        LazyLock::new(|| {
                            gst::subclass::ElementMetadata::new(
                                "Faulty encoder",
                                "Codec/Encoder/Video/Hardware",
                                "Does not encode",
                                "gst-dualstream",
                            )
                        });
                    Some(&METADATA)
                }

                fn pad_templates() -> &'static [gst::PadTemplate] {
                    static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
                        LazyLock::new(super::templates);
                    &TEMPLATES
                }
            }
        };
    }

    encoder!(Hang, Hang, "GstDoctorHangH264Enc", Fault::Hang);
    encoder!(Crash, Crash, "GstDoctorCrashH264Enc", Fault::Crash);
    encoder!(Error, Error, "GstDoctorErrorH264Enc", Fault::Error);
}

glib::wrapper! {
    pub struct Hang(ObjectSubclass<imp::Hang>) @extends gst::Element, gst::Object;
}
glib::wrapper! {
    pub struct Crash(ObjectSubclass<imp::Crash>) @extends gst::Element, gst::Object;
}
glib::wrapper! {
    pub struct Error(ObjectSubclass<imp::Error>) @extends gst::Element, gst::Object;
}

fn templates() -> Vec<gst::PadTemplate> {
    let raw = gst::Caps::builder("video/x-raw")
        .field("format", "NV12")
        .build();
    let coded = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    [
        ("sink", gst::PadDirection::Sink, raw),
        ("src", gst::PadDirection::Src, coded),
    ]
    .into_iter()
    .filter_map(|(name, direction, caps)| {
        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).ok()
    })
    .collect()
}

fn pads(templates: &[gst::PadTemplate], fault: Fault) -> Vec<gst::Pad> {
    templates
        .iter()
        .map(|template| match template.direction() {
            gst::PadDirection::Sink => gst::Pad::builder_from_template(template)
                .chain_function(move |_, parent, _| fail(fault, parent))
                .build(),
            _ => gst::Pad::from_template(template),
        })
        .collect()
}

fn fail(fault: Fault, parent: Option<&gst::Object>) -> Result<gst::FlowSuccess, gst::FlowError> {
    match fault {
        Fault::Hang => loop {
            std::thread::park();
        },
        Fault::Crash => std::process::abort(),
        Fault::Error => {
            if let Some(element) = parent.and_then(|p| p.downcast_ref::<gst::Element>()) {
                gst::element_error!(element, gst::ResourceError::Busy, ["the device is busy"]);
            }
            Err(gst::FlowError::Error)
        }
    }
}

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    let rank = gst::Rank::PRIMARY;
    gst::Element::register(Some(plugin), "doctorhangh264enc", rank, Hang::static_type())?;
    gst::Element::register(
        Some(plugin),
        "doctorcrashh264enc",
        rank,
        Crash::static_type(),
    )?;
    gst::Element::register(
        Some(plugin),
        "doctorerrorh264enc",
        rank,
        Error::static_type(),
    )
}

gst::plugin_define!(
    doctorfaulty,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    env!("CARGO_PKG_VERSION"),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream"
);
