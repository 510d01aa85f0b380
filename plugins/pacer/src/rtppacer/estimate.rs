// SPDX-License-Identifier: MPL-2.0
//! The custom upstream event `application/x-network-estimate`.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use gst::glib;
use pacer_core::{Pacer, ProbeCluster, Requests};

pub const EVENT: &str = "application/x-network-estimate";

/// What of the event concerns a pacer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub target: Option<Bitrate>,
    pub pacing: Option<Bitrate>,
    pub padding: Option<Bitrate>,
    pub window: Option<DataSize>,
    pub in_flight: DataSize,
    pub rtt: Option<Duration>,
    pub probe: Option<ProbeCluster>,
    /// Fields of a wrong type.
    pub wrong: u64,
}

fn field<'a, T: glib::value::FromValue<'a>>(
    s: &'a gst::StructureRef,
    name: &str,
    wrong: &mut u64,
) -> Option<T> {
    let value = s.value(name).ok()?;
    let Ok(value) = value.get::<T>() else {
        *wrong += 1;
        return None;
    };
    Some(value)
}

impl Estimate {
    pub fn parse(s: &gst::StructureRef) -> Self {
        let mut wrong = 0;
        let mut number = |name| field::<u64>(s, name, &mut wrong);
        let mut estimate = Self {
            target: number("target-bitrate").map(Bitrate::from_bps),
            pacing: number("pacing-bitrate").map(Bitrate::from_bps),
            padding: number("padding-bitrate").map(Bitrate::from_bps),
            window: number("congestion-window").map(DataSize::from_bytes),
            in_flight: DataSize::from_bytes(number("in-flight").unwrap_or_default()),
            rtt: number("rtt").map(Duration::from_nanos),
            ..Self::default()
        };
        if let Some(probe) = field::<gst::Structure>(s, "probe", &mut wrong) {
            estimate.probe = (|| {
                Some(ProbeCluster {
                    id: field(&probe, "id", &mut wrong)?,
                    bitrate: Bitrate::from_bps(field(&probe, "bitrate", &mut wrong)?),
                    packets: field(&probe, "packets", &mut wrong).unwrap_or(0),
                    duration: Duration::from_nanos(
                        field(&probe, "duration", &mut wrong).unwrap_or(0),
                    ),
                })
            })();
        }
        estimate.wrong = wrong;
        estimate
    }

    pub fn apply<P, R>(&self, core: &mut Pacer<P>, requests: &mut Requests<R>, now: Timestamp) {
        if let Some(target) = self.target {
            core.set_target(now, target);
            requests.set_target(now, Some(target));
        }
        if let Some(rtt) = self.rtt {
            requests.set_rtt(rtt);
        }
        if let Some(pacing) = self.pacing {
            core.set_rate(now, pacing);
        }
        if let Some(padding) = self.padding {
            core.set_padding_rate(now, padding);
        }
        core.set_congestion_window(now, self.window, self.in_flight);
        if let Some(probe) = self.probe {
            core.probe(now, probe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_or_of_a_wrong_type_is_ignored() {
        gst::init().unwrap();
        let probe = gst::Structure::builder("probe")
            .field("id", 7u32)
            .field("bitrate", 3_000_000u64)
            .field("packets", 5u32)
            .field("duration", 15_000_000u64)
            .build();
        let s = gst::Structure::builder(EVENT)
            .field("target-bitrate", 1_000_000u64)
            .field("pacing-bitrate", 5i32)
            .field("probe", probe)
            .build();
        let e = Estimate::parse(&s);
        assert_eq!(e.target, Some(Bitrate::from_kbps(1000)));
        assert_eq!((e.pacing, e.wrong), (None, 1));
        assert_eq!(e.window, None);
        let probe = e.probe.unwrap();
        assert_eq!((probe.id, probe.packets), (7, 5));
        assert_eq!(probe.duration, Duration::from_millis(15));
        let s = gst::Structure::builder(EVENT).field("probe", "x").build();
        assert_eq!(
            Estimate::parse(&s),
            Estimate {
                wrong: 1,
                ..Estimate::default()
            }
        );
    }
}
