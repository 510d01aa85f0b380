// SPDX-License-Identifier: MPL-2.0
//! The certificate of DTLS. webrtcbin's own is of RSA, and a peer that has only
//! the ciphers which RFC 8827 section 6.5 demands, all of them ECDSA, cannot
//! answer it: aiortc for one, when it takes an offer. P-256 is what browsers
//! have, too, and its key is made in no time.

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCSessionDescription;

use crate::peer;

struct Certificate {
    /// With its key, as `dtlssrtpdec` takes them.
    pem: String,
    /// SHA-256 as `a=fingerprint` has it (RFC 8122 section 5).
    fingerprint: String,
}

fn generate() -> Result<Certificate, rcgen::Error> {
    let pair = rcgen::generate_simple_self_signed(["WebRTC".to_owned()])?;
    let digest = glib::compute_checksum_for_data(glib::ChecksumType::Sha256, pair.cert.der())
        .unwrap_or_default();
    let octets: Vec<&str> = (0..digest.len() / 2)
        .map(|i| &digest[2 * i..][..2])
        .collect();
    Ok(Certificate {
        pem: pair.cert.pem() + &pair.signing_key.serialize_pem(),
        fingerprint: octets.join(":").to_uppercase(),
    })
}

/// Gives `webrtcbin` a certificate of its own, and returns its fingerprint. To
/// be called when it is new.
pub fn install(webrtcbin: &gst::Element) -> Option<String> {
    let Certificate { pem, fingerprint } = match generate() {
        Ok(certificate) => certificate,
        Err(err) => {
            gst::warning!(gst::CAT_DEFAULT, obj = webrtcbin, "RSA it is: {err}");
            return None;
        }
    };
    if let Some(bin) = webrtcbin.downcast_ref::<gst::Bin>() {
        bin.connect_deep_element_added(move |_, _, element| {
            if element
                .factory()
                .is_some_and(|factory| factory.name() == "dtlssrtpdec")
            {
                element.set_property("pem", &pem);
            }
        });
    }
    Some(fingerprint)
}

/// Writes the fingerprint into a description of webrtcbin's, which takes the
/// key as a part of the certificate (1.22: lines of both are hashed).
pub fn name(
    description: WebRTCSessionDescription,
    fingerprint: Option<&str>,
) -> Result<WebRTCSessionDescription, String> {
    let Some(fingerprint) = fingerprint else {
        return Ok(description);
    };
    let text = with_fingerprint(&peer::text(&description)?, fingerprint);
    peer::parse(description.type_(), &text)
}

fn with_fingerprint(sdp: &str, fingerprint: &str) -> String {
    sdp.lines()
        .map(|line| {
            if line.starts_with("a=fingerprint:") {
                format!("a=fingerprint:sha-256 {fingerprint}\r\n")
            } else {
                format!("{line}\r\n")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_its_key_are_made_anew_each_time() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        for part in ["CERTIFICATE", "PRIVATE KEY"] {
            assert!(
                one.pem.contains(&format!("-----BEGIN {part}-----")),
                "{part}"
            );
        }
        assert_ne!(one.pem, other.pem);
        assert_ne!(one.fingerprint, other.fingerprint);
    }

    /// 32 octets in capital hexadecimal digits.
    #[test]
    fn a_fingerprint_is_that_of_the_certificate_alone() {
        let Certificate { pem, fingerprint } = generate().unwrap();
        assert_eq!(fingerprint.split(':').count(), 32, "{fingerprint}");
        let base64: String = pem
            .lines()
            .take_while(|line| !line.starts_with("-----END CERTIFICATE"))
            .filter(|line| !line.starts_with('-'))
            .collect();
        let der = glib::base64_decode(&base64);
        let digest = glib::compute_checksum_for_data(glib::ChecksumType::Sha256, &der).unwrap();
        assert_eq!(fingerprint.replace(':', "").to_lowercase(), digest);
    }

    #[test]
    fn every_section_is_given_the_fingerprint() {
        let sdp = "v=0\r\nm=video 9\r\na=fingerprint:sha-256 00:11\r\na=mid:0\r\n\
            m=audio 9\r\na=fingerprint:sha-512 22\r\n";
        let wanted = "v=0\r\nm=video 9\r\na=fingerprint:sha-256 AB\r\na=mid:0\r\n\
            m=audio 9\r\na=fingerprint:sha-256 AB\r\n";
        assert_eq!(with_fingerprint(sdp, "AB"), wanted);
    }

    #[test]
    fn gstreamer_takes_the_certificate() {
        gst::init().unwrap();
        let decoder = gst::ElementFactory::make("dtlssrtpdec").build().unwrap();
        let pem = generate().unwrap().pem;
        decoder.set_property("pem", &pem);
        assert_eq!(decoder.property::<String>("pem"), pem);
    }
}
