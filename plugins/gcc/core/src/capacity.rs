// SPDX-License-Identifier: MPL-2.0
//! What the link takes: now, on its plateau, and how far below that to stay.
//!
//! While our own queue stands, what arrives is the capacity. While there is
//! none it is at least that, and the rest is a guess that grows with time. On a
//! link that is steady the guess may be as high as what was seen. On one that
//! dips, packets wait at each dip; a margin below the plateau keeps those waits
//! few. It is widened while a queue stands and narrowed while none does, so
//! that it settles where queues stand for a small share of the time
//! ([`Tuning::late_share`]). This takes the place of the fixed factor (0.85)
//! by which GCC backs off.

use std::collections::VecDeque;

use crate::comeback::{Comeback, towards};

/// The values are time constants in s, and rates per s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// How quickly a sample is believed. Larger: steadier, later.
    pub fast: f64,
    /// How quickly the plateau sinks to the samples. Larger: more of a dip is
    /// made up for at once, and a lasting fall is believed later.
    pub plateau: f64,
    /// Growth of the guess below the plateau, and above it. Larger: more use,
    /// more queue.
    pub recovery: f64,
    pub growth: f64,
    /// A queue that stands longer than this, s, is too long.
    pub late: f64,
    /// Share of the time in which that may be.
    pub late_share: f64,
    /// How fast the margin widens while it is. Larger: reacts to single dips.
    pub widening: f64,
    /// Time constant of the decay while nothing is heard.
    pub silence: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            fast: 0.025,
            plateau: 0.5,
            recovery: 0.7,
            growth: 0.10,
            late: 0.012,
            late_share: 0.010,
            widening: 0.45,
            silence: 0.015,
        }
    }
}

/// As long as the least delay is remembered, s: it was seen at the best rate.
const BEST: f64 = 20.0;
/// bit/s.
const LEAST: f64 = 1000.0;
/// Response time for which [`Tuning::widening`] is, s.
const RESPONSE: f64 = 0.1;
/// Of the plateau.
const WIDEST: f64 = 0.7;

#[derive(Debug)]
pub struct Capacity {
    tuning: Tuning,
    fast: f64,
    plateau: f64,
    best: Best,
    margin: f64,
    comeback: Comeback,
}

/// Most of the last [`BEST`] s.
#[derive(Debug)]
struct Best {
    /// Sum of all times.
    clock: f64,
    /// Start and most of each second. At most [`BEST`] + 2.
    buckets: VecDeque<(f64, f64)>,
}

impl Best {
    fn new(rate: f64) -> Self {
        Self {
            clock: 0.0,
            buckets: VecDeque::from([(0.0, rate)]),
        }
    }

    fn update(&mut self, dt: f64, rate: f64) {
        self.clock += dt;
        match self.buckets.back_mut() {
            Some((start, most)) if self.clock - *start < 1.0 => *most = rate.max(*most),
            _ => self.buckets.push_back((self.clock, rate)),
        }
        while self.buckets.len() > 1
            && (self.buckets.front()).is_some_and(|(start, _)| self.clock - start > BEST)
        {
            self.buckets.pop_front();
        }
    }

    fn most(&self) -> f64 {
        self.buckets
            .iter()
            .map(|(_, most)| *most)
            .fold(LEAST, f64::max)
    }
}

impl Capacity {
    pub fn new(tuning: Tuning, start: f64) -> Self {
        let start = start.max(LEAST);
        Self {
            tuning,
            fast: start,
            plateau: start,
            best: Best::new(start),
            margin: 0.0,
            comeback: Comeback::new(start),
        }
    }

    /// From here on.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// bit/s, now.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.fast
    }

    #[must_use]
    pub fn plateau(&self) -> f64 {
        self.plateau
    }

    /// The most of the last seconds.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.best.most()
    }

    /// Where it was before a fall that it has not come back from, bit/s.
    #[must_use]
    pub fn goal(&self) -> Option<f64> {
        self.comeback.goal()
    }

    /// Share of the plateau to stay below it.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// What may be sent.
    #[must_use]
    pub fn safe(&self) -> f64 {
        self.fast.min(self.plateau * (1.0 - self.margin))
    }

    /// A queue of ours stood for `dt`, `standing` s long: `rate` is all that
    /// the link takes. `response` is how soon we hear of it, s.
    pub fn full(&mut self, rate: f64, dt: f64, standing: f64, response: f64) {
        let t = self.tuning;
        let rate = rate.max(LEAST);
        // From far above, the difference swallows the rate.
        self.fast = (self.fast + (rate - self.fast) * towards(dt, t.fast)).max(LEAST);
        self.plateau += (self.fast - self.plateau) * towards(dt, t.plateau);
        let excused = self.comeback.full(self.safe(), dt);
        let standing = if excused { 0.0 } else { standing };
        // Where it takes longer to hear of a dip, each one is late for longer.
        let weight = (RESPONSE / response).min(1.0);
        self.waited(dt, standing, weight);
        self.settle(dt);
    }

    fn waited(&mut self, dt: f64, standing: f64, weight: f64) {
        let t = self.tuning;
        let late = f64::from(u8::from(standing > t.late));
        let change = t.widening * (late * weight - t.late_share) * dt;
        self.margin = (self.margin + change).clamp(0.0, WIDEST);
    }

    /// There was no queue of ours: it takes `rate`, and perhaps more. `trying`:
    /// we sent what was allowed, so that a higher rate may be tried. `response`
    /// is how soon we hear of it, s; without it there is no hurry after a fall.
    pub fn open(&mut self, rate: f64, dt: f64, trying: bool, response: Option<f64>) {
        let t = self.tuning;
        self.waited(dt, 0.0, 1.0);
        self.fast = self.fast.max(rate);
        let safe = self.safe();
        let hurry = |response| self.comeback.open(safe, dt, trying, response);
        let back = response.map_or(0.0, hurry);
        if trying {
            let growth = if self.fast < self.plateau {
                t.recovery
            } else {
                t.growth
            };
            self.fast *= (growth.max(back) * dt).exp();
        }
        self.settle(dt);
    }

    /// Nothing is heard although it should be.
    pub fn silent(&mut self, dt: f64) {
        self.fast = (self.fast * (1.0 - towards(dt, self.tuning.silence))).max(LEAST);
    }

    /// A probe has shown this.
    pub fn at_least(&mut self, rate: f64) {
        self.fast = self.fast.max(rate);
        self.settle(0.0);
    }

    /// Something other than our own queue has shown this.
    pub fn at_most(&mut self, rate: f64) {
        let rate = rate.max(LEAST);
        self.fast = self.fast.min(rate);
        self.plateau = self.plateau.min(rate);
    }

    fn settle(&mut self, dt: f64) {
        self.plateau = self.plateau.max(self.fast);
        self.best.update(dt, self.fast);
        debug_assert!(self.fast.is_finite() && self.plateau.is_finite());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity::new(Tuning::default(), 1e6)
    }

    #[track_caller]
    fn assert_near(value: f64, expected: f64) {
        let off = (value / expected - 1.0).abs();
        assert!(off < 1e-6, "{value}, not {expected}");
    }

    #[test]
    fn while_a_queue_stands_what_arrives_is_the_capacity() {
        let mut c = capacity();
        // One time constant: 1 - 1/e of the way.
        c.full(0.5e6, 0.025, 0.005, RESPONSE);
        assert_near(c.now(), 1e6 - 0.5e6 * (1.0 - (-1.0f64).exp()));
        for _ in 0..20 {
            c.full(0.5e6, 0.025, 0.005, RESPONSE);
        }
        assert!((c.now() - 0.5e6).abs() < 1000.0, "{}", c.now());
        assert!(c.plateau() > 0.6e6, "the plateau does not sink at once");
        for _ in 0..200 {
            c.full(0.5e6, 0.025, 0.005, RESPONSE);
        }
        assert!((c.plateau() - 0.5e6).abs() < 1000.0, "{}", c.plateau());
        assert!(c.best() > 0.75e6, "the best is remembered for 20 s");
    }

    #[test]
    fn filters_do_not_depend_on_how_often_they_are_told() {
        let (mut coarse, mut fine) = (capacity(), capacity());
        coarse.full(0.5e6, 0.1, 0.0, RESPONSE);
        for _ in 0..100 {
            fine.full(0.5e6, 0.001, 0.0, RESPONSE);
        }
        assert_near(coarse.now(), fine.now());
    }

    /// Found by tests/properties.rs: 1e19 + (1000 - 1e19) is 0.
    #[test]
    fn regression_a_fall_from_a_huge_rate_is_not_to_nothing() {
        let mut c = Capacity::new(Tuning::default(), 1e19);
        c.full(LEAST, 10.0, 0.0, RESPONSE);
        assert_eq!(c.now(), LEAST);
        assert!(c.safe() > 0.0);
    }

    #[test]
    fn without_a_queue_it_is_at_least_what_arrives() {
        let mut c = capacity();
        c.open(2e6, 0.05, false, Some(RESPONSE));
        assert_eq!((c.now(), c.plateau(), c.best()), (2e6, 2e6, 2e6));
        c.open(0.1e6, 0.05, false, Some(RESPONSE));
        assert_eq!(c.now(), 2e6, "little arriving says nothing");
    }

    #[test]
    fn the_guess_grows_while_it_is_tried_and_faster_below_the_plateau() {
        let t = Tuning::default();
        let mut c = capacity();
        c.open(0.0, 0.1, true, Some(RESPONSE));
        assert_near(c.now(), 1e6 * (0.1 * t.growth).exp());
        let mut c = capacity();
        c.fast = 0.5e6;
        c.open(0.0, 0.1, true, Some(RESPONSE));
        assert_near(c.now(), 0.5e6 * (0.1 * t.recovery).exp());
        assert_eq!(c.plateau(), 1e6);
        let before = c.now();
        c.open(0.0, 0.1, false, Some(RESPONSE));
        assert_eq!(c.now(), before, "not tried");
    }

    #[test]
    fn the_margin_widens_with_long_queues_and_narrows_without() {
        let t = Tuning::default();
        let mut c = capacity();
        c.full(1e6, 0.1, t.late + 0.001, RESPONSE);
        assert_near(c.margin(), t.widening * (1.0 - t.late_share) * 0.1);
        assert_near(c.safe(), 1e6 * (1.0 - c.margin()));
        let wide = c.margin();
        c.full(1e6, 0.1, t.late - 0.001, RESPONSE);
        assert!(c.margin() < wide, "a short queue is not too long");
        let less = c.margin();
        c.open(0.0, 0.1, false, Some(RESPONSE));
        assert!(c.margin() < less);
        for _ in 0..100 {
            c.full(1e6, 1.0, 1.0, RESPONSE);
        }
        assert_eq!(c.margin(), WIDEST);
        for _ in 0..100 {
            c.open(0.0, 10.0, false, Some(RESPONSE));
        }
        assert_eq!(c.margin(), 0.0);
    }

    #[test]
    fn the_margin_rests_where_queues_stand_for_their_share_of_the_time() {
        let t = Tuning::default();
        let mut c = capacity();
        c.margin = 0.2;
        for n in 0..10_000 {
            if f64::from(n % 200) < 200.0 * t.late_share {
                c.full(1e6, 0.01, 1.0, RESPONSE);
            } else {
                c.open(0.0, 0.01, false, Some(RESPONSE));
            }
        }
        assert!((c.margin() - 0.2).abs() < 0.02, "{}", c.margin());
    }

    #[test]
    fn in_silence_it_goes_down_and_never_to_nothing() {
        let mut c = capacity();
        let tau = Tuning::default().silence;
        c.silent(tau);
        assert_near(c.now(), 1e6 / 1.0f64.exp());
        assert_eq!(c.plateau(), 1e6, "the plateau is for afterwards");
        for _ in 0..1000 {
            c.silent(1.0);
        }
        assert_eq!(c.now(), LEAST);
    }

    #[test]
    fn what_a_probe_shows_is_taken_if_it_is_more() {
        let mut c = capacity();
        c.at_least(3e6);
        assert_eq!((c.now(), c.plateau(), c.best()), (3e6, 3e6, 3e6));
        c.at_least(1e6);
        assert_eq!(c.now(), 3e6);
    }

    #[test]
    fn what_losses_show_is_taken_if_it_is_less() {
        let mut c = capacity();
        c.at_most(2e6);
        assert_eq!((c.now(), c.plateau()), (1e6, 1e6));
        c.at_most(0.4e6);
        assert_eq!((c.now(), c.plateau(), c.safe()), (0.4e6, 0.4e6, 0.4e6));
        c.at_most(0.0);
        assert_eq!(c.now(), LEAST);
    }
}
