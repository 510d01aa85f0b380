// SPDX-License-Identifier: MPL-2.0
//! Bitrates of the encoders: what the user allows, what the network of each
//! receiver bears, and what follows for an encoder that serves several.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

/// Property of the encoder: its bitrate, estimates aside.
const CONFIGURED: &str = "configured-bitrate";

/// An encoder, and what it was given last, by the user or by us. An estimate may
/// change its bitrate between a change by the user and the word of it.
#[derive(Debug)]
struct Given {
    encoder: glib::WeakRef<gst::Element>,
    configured: u32,
}

/// A receiver.
#[derive(Debug)]
struct Client {
    id: u64,
    encoder: glib::WeakRef<gst::Element>,
    estimator: glib::WeakRef<gst::Element>,
    /// The last estimate for video.
    estimate: Option<u64>,
    /// A newcomer, whose estimate is not held against the others yet.
    is_new: bool,
    /// It says nothing, so that its estimate says nothing of its network.
    is_silent: bool,
    /// What audio takes there, in bit/s.
    audio: u32,
    /// Our value of the estimator's `max-bitrate`.
    limit: Option<u32>,
}

impl Client {
    /// The estimator is as the user has set it.
    fn release(&self) {
        let Some(estimator) = self.estimator.upgrade() else {
            return;
        };
        if let Some(spec) = estimator.find_property("max-bitrate")
            && self.limit == Some(estimator.property("max-bitrate"))
        {
            estimator.set_property_from_value("max-bitrate", spec.default_value());
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// What the user gave the encoder.
    ceiling: u32,
    encoders: Vec<Given>,
    clients: Vec<Client>,
}

/// One for a sink.
#[derive(Clone, Debug, Default)]
pub struct Rates(Arc<Mutex<State>>);

fn is(weak: &glib::WeakRef<gst::Element>, element: &gst::Element) -> bool {
    weak.upgrade().as_ref() == Some(element)
}

/// What the encoder makes of a target.
fn within(encoder: &gst::Element, bps: u64) -> u32 {
    let [least, most]: [u32; 2] = ["min-bitrate", "max-bitrate"].map(|name| encoder.property(name));
    let bps = u32::try_from(bps).unwrap_or(u32::MAX);
    bps.min(most).max(least.min(most))
}

impl State {
    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    /// The lowest estimate of those whom this encoder serves.
    fn lowest(&self, encoder: &gst::Element) -> Option<u64> {
        let served = || self.clients.iter().filter(|c| is(&c.encoder, encoder));
        let settled = served()
            .filter(|c| !c.is_new && !c.is_silent)
            .filter_map(|c| c.estimate);
        settled
            .min()
            .or_else(|| served().filter_map(|c| c.estimate).min())
    }
}

impl Rates {
    /// `encoder` is the one that the user sets.
    pub fn new(encoder: &gst::Element) -> Self {
        let configured: u32 = encoder.property(CONFIGURED);
        let rates = Self(Arc::new(Mutex::new(State {
            ceiling: configured,
            encoders: vec![Given {
                encoder: encoder.downgrade(),
                configured,
            }],
            clients: Vec::new(),
        })));
        let weak = Arc::downgrade(&rates.0);
        encoder.connect_notify(Some("bitrate"), move |encoder, _| {
            if let Some(state) = weak.upgrade() {
                Self(state).on_bitrate(encoder);
            }
        });
        rates
    }

    /// One more encoder.
    pub fn add_encoder(&self, encoder: &gst::Element) {
        let configured = {
            let mut state = self.0.lock().unwrap();
            let configured = state.ceiling;
            state.encoders.push(Given {
                encoder: encoder.downgrade(),
                configured,
            });
            configured
        };
        encoder.set_property("bitrate", configured);
    }

    pub fn remove_encoder(&self, encoder: &gst::Element) {
        let mut state = self.0.lock().unwrap();
        state.encoders.retain(|given| !is(&given.encoder, encoder));
    }

    pub fn ceiling(&self) -> u32 {
        self.0.lock().unwrap().ceiling
    }

    /// The rate in force of an encoder.
    pub fn configured(&self, encoder: &gst::Element) -> u32 {
        let state = self.0.lock().unwrap();
        let given = state.encoders.iter().find(|g| is(&g.encoder, encoder));
        given.map_or(state.ceiling, |given| given.configured)
    }

    /// A receiver with this estimator comes.
    pub fn enter(&self, id: u64, estimator: &gst::Element) {
        self.0.lock().unwrap().clients.push(Client {
            id,
            encoder: glib::WeakRef::new(),
            estimator: estimator.downgrade(),
            estimate: None,
            is_new: false,
            is_silent: false,
            audio: 0,
            limit: None,
        });
        self.follow(id);
    }

    /// The `max-bitrate` of a receiver's estimator, if it is the user's.
    pub fn users_limit(&self, id: u64, estimator: &gst::Element) -> Option<u32> {
        let now: u32 = estimator.property("max-bitrate");
        let ours = self.0.lock().unwrap().client(id).and_then(|c| c.limit);
        (ours != Some(now)).then_some(now)
    }

    /// This encoder serves it. `estimate`: what is assumed of its network;
    /// `is_new`: others are served by it already.
    pub fn serve(&self, id: u64, encoder: &gst::Element, estimate: Option<u64>, is_new: bool) {
        {
            let mut state = self.0.lock().unwrap();
            let Some(client) = state.client(id) else {
                return;
            };
            client.encoder = encoder.downgrade();
            client.estimate = estimate;
            client.is_new = is_new;
        }
        if !is_new && let Some(estimate) = estimate {
            self.configure(encoder, within(encoder, estimate));
        }
    }

    /// Another encoder serves it from here on, at what its network bears; the one
    /// that did is as those want it who stay.
    pub fn change_encoder(&self, id: u64, encoder: &gst::Element) {
        let (former, wanted) = {
            let mut state = self.0.lock().unwrap();
            let ceiling = state.ceiling;
            let Some(client) = state.client(id) else {
                return;
            };
            let former = client.encoder.upgrade();
            client.encoder = encoder.downgrade();
            client.is_new = false;
            let wanted = |state: &State, encoder: &gst::Element| {
                let lowest = state.lowest(encoder);
                lowest.map_or(ceiling, |bps| within(encoder, bps).min(ceiling))
            };
            let own = wanted(&state, encoder);
            let rest = former.as_ref().map(|former| wanted(&state, former));
            (former.zip(rest), own)
        };
        self.configure(encoder, wanted);
        if let Some((former, wanted)) = former {
            self.configure(&former, wanted);
        }
    }

    /// It is no newcomer any more.
    pub fn settle(&self, id: u64) {
        if let Some(client) = self.0.lock().unwrap().client(id) {
            client.is_new = false;
        }
    }

    /// It says nothing, or something again.
    pub fn set_silent(&self, id: u64, silent: bool) {
        if let Some(client) = self.0.lock().unwrap().client(id) {
            client.is_silent = silent;
        }
    }

    /// It goes. The encoder that served it is as the others want it, or as the
    /// user has set it.
    pub fn leave(&self, id: u64) {
        let client = {
            let mut state = self.0.lock().unwrap();
            let Some(at) = state.clients.iter().position(|client| client.id == id) else {
                return;
            };
            state.clients.swap_remove(at)
        };
        client.release();
        let (encoder, target) = {
            let state = self.0.lock().unwrap();
            let Some(encoder) = client.encoder.upgrade() else {
                return;
            };
            let ceiling = state.ceiling;
            let target = match state.lowest(&encoder) {
                Some(estimate) => within(&encoder, estimate).min(ceiling),
                None => ceiling,
            };
            (encoder, target)
        };
        if encoder.property::<u32>("bitrate") != target {
            self.configure(&encoder, target);
        }
    }

    /// Audio takes this of what the network of a receiver bears, in bit/s.
    pub fn set_audio(&self, id: u64, share: u64) {
        if let Some(client) = self.0.lock().unwrap().client(id) {
            client.audio = u32::try_from(share).unwrap_or(u32::MAX);
        }
        self.follow(id);
    }

    /// What the network of a receiver bears. What its encoder is to be told: the
    /// lowest of all that it serves.
    pub fn on_estimate(&self, id: u64, target: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        let Some(client) = state.client(id) else {
            return target;
        };
        client.estimate = Some(target);
        let Some(encoder) = client.encoder.upgrade() else {
            return target;
        };
        state.lowest(&encoder).unwrap_or(target)
    }

    /// The last estimates of those whom this encoder serves and who say something.
    pub fn estimates(&self, encoder: &gst::Element) -> Vec<(u64, u64)> {
        let state = self.0.lock().unwrap();
        let served = state.clients.iter().filter(|c| is(&c.encoder, encoder));
        let heard = served.filter(|c| !c.is_silent);
        heard.filter_map(|c| Some((c.id, c.estimate?))).collect()
    }

    /// Gives an encoder a bitrate that is not the user's.
    fn configure(&self, encoder: &gst::Element, bitrate: u32) {
        {
            let mut state = self.0.lock().unwrap();
            if let Some(given) = state.encoders.iter_mut().find(|g| is(&g.encoder, encoder)) {
                given.configured = bitrate;
            }
        }
        encoder.set_property("bitrate", bitrate);
    }

    /// The encoder's bitrate has changed: by an estimate, on the thread that
    /// brought it, by us, or by the user.
    fn on_bitrate(&self, encoder: &gst::Element) {
        let bitrate: u32 = encoder.property(CONFIGURED);
        let (ids, others) = {
            let mut state = self.0.lock().unwrap();
            let Some(given) = state.encoders.iter_mut().find(|g| is(&g.encoder, encoder)) else {
                return;
            };
            if given.configured == bitrate {
                return;
            }
            given.configured = bitrate;
            state.ceiling = bitrate;
            let ids: Vec<u64> = state.clients.iter().map(|client| client.id).collect();
            let encoders = state.encoders.iter().filter_map(|g| g.encoder.upgrade());
            let wanted: Vec<_> = encoders.map(|e| (state.lowest(&e), e)).collect();
            (ids, wanted)
        };
        for id in ids {
            self.follow(id);
        }
        for (lowest, other) in others {
            // The network does not take more for that.
            let target = lowest.map_or(bitrate, |bps| within(&other, bps).min(bitrate));
            if &other != encoder || target < bitrate {
                self.configure(&other, target);
            }
        }
    }

    /// The limit of an estimator is the user's bitrate and what audio takes.
    fn follow(&self, id: u64) {
        let Some((estimator, limit, ours)) = ({
            let mut state = self.0.lock().unwrap();
            let ceiling = state.ceiling;
            state.client(id).and_then(|client| {
                let limit = ceiling.saturating_add(client.audio);
                let estimator = client.estimator.upgrade()?;
                Some((estimator, limit, client.limit))
            })
        }) else {
            return;
        };
        let now: u32 = estimator.property("max-bitrate");
        let is_default = estimator
            .find_property("max-bitrate")
            .is_some_and(|spec| spec.default_value().get() == Ok(now));
        if !is_default && ours != Some(now) {
            // The user's own.
            return;
        }
        if let Some(client) = self.0.lock().unwrap().client(id) {
            client.limit = Some(limit);
        }
        if limit != now {
            estimator.set_property("max-bitrate", limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encoder and estimators as far as they are used here would need the other
    /// plugins: who counts is decided without them.
    #[test]
    fn newcomers_and_silent_ones_do_not_count_while_there_are_others() {
        gst::init().unwrap();
        let encoder = gst::ElementFactory::make("identity").build().unwrap();
        let client = |id, estimate, is_new, is_silent| Client {
            id,
            encoder: encoder.downgrade(),
            estimator: glib::WeakRef::new(),
            estimate,
            is_new,
            is_silent,
            audio: 0,
            limit: None,
        };
        let lowest = |clients: Vec<Client>| {
            let state = State {
                clients,
                ..State::default()
            };
            state.lowest(&encoder)
        };
        let settled = || client(1, Some(900), false, false);
        assert_eq!(lowest(vec![]), None);
        assert_eq!(lowest(vec![settled()]), Some(900));
        assert_eq!(
            lowest(vec![settled(), client(2, Some(300), true, false)]),
            Some(900)
        );
        assert_eq!(
            lowest(vec![settled(), client(2, Some(300), false, true)]),
            Some(900)
        );
        assert_eq!(
            lowest(vec![settled(), client(2, Some(300), false, false)]),
            Some(300)
        );
        assert_eq!(lowest(vec![client(2, Some(300), true, false)]), Some(300));
        assert_eq!(
            lowest(vec![client(2, None, false, false), settled()]),
            Some(900)
        );
    }
}
