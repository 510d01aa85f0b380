// SPDX-License-Identifier: MPL-2.0
//! The way back after a fall.
//!
//! What the link took before an outage or a deep fall it will mostly take again
//! soon. So the rate that was usual is remembered, and while no queue of ours
//! stands the way back to it is short: the growth rises with each second that
//! meets no queue. Where a queue stands the link has not come back, or not so
//! far: each try waits longer than the one before, what is hoped for sinks to
//! what arrives, and in the end the fall is taken for good. CUBIC (RFC 8312)
//! keeps the window before a loss for the same reason.

/// A rate below this share of the usual one is a fall that is made up for.
/// Larger: of two lasting steps down more are taken for one.
const DEEP: f64 = 0.4;
/// Of the usual rate: so far it goes back quickly. Larger: sooner back, and
/// more queue where the link takes less than before.
const SHARE: f64 = 0.85;
/// Growth at first, per s, and by how much it rises each second without a
/// queue.
const FIRST: f64 = 0.7;
const URGENCY: f64 = 1.0;
/// Growth until it is heard of, at most: as far as this the rate may overshoot.
const STRIDE: f64 = 0.2;
const LEAST_RESPONSE: f64 = 0.01;
/// Time in which the usual rate is learnt, s.
const USUAL: f64 = 6.0;
/// Time constant in which what is hoped for sinks to what arrives while a queue
/// stands, s. Smaller: a lasting fall costs less queue, and one that does not
/// last more time.
const BELIEVE: f64 = 6.0;
/// After a try that met a queue the next one waits for so long, and for twice as
/// long each time, up to the second value, s: a link that has become slower for good meets one before
/// that, growing as it always does.
const HELD: f64 = 0.5;
const MOST_HELD: f64 = 2.0;
/// After this time nothing is hoped for any more, s.
const LONGEST: f64 = 30.0;
/// A queue is our own trying's doing if the rate grew by this factor before it,
/// and for so long, s.
const TRIED: f64 = 1.1;
const EXCUSED: f64 = 0.3;

/// Rates in bit/s.
#[derive(Debug)]
pub struct Comeback {
    usual: f64,
    /// The rate to go back to.
    goal: Option<f64>,
    /// Since the fall, s.
    age: f64,
    /// For so long no queue has stood while more was tried, s.
    clear: f64,
    /// The rates at the beginning and the end of that.
    grew: (f64, f64),
    /// Nothing is hurried before it has been clear for so long, s.
    hold: f64,
    /// A queue is excused for so long from here on, s.
    excused: f64,
}

impl Comeback {
    pub fn new(start: f64) -> Self {
        Self {
            usual: 0.0,
            goal: None,
            age: 0.0,
            clear: 0.0,
            grew: (start, start),
            excused: 0.0,
            hold: 0.0,
        }
    }

    /// The rate to go back to after a fall.
    #[must_use]
    pub fn goal(&self) -> Option<f64> {
        self.goal
    }

    /// No queue of ours stood for `dt`, and the rate was `rate`. `trying`: all
    /// of it was sent; `response` is how soon we hear of it, s. The growth that
    /// is called for, per s; 0 if there is no hurry.
    pub fn open(&mut self, rate: f64, dt: f64, trying: bool, response: f64) -> f64 {
        self.look(rate, dt);
        if self.goal.is_none() {
            return 0.0;
        }
        if self.clear == 0.0 {
            self.grew.0 = rate;
        }
        self.grew.1 = rate;
        if trying {
            self.clear += dt;
        }
        let tried = self.clear - self.hold;
        if tried < 0.0 {
            return 0.0;
        }
        let most = STRIDE / response.max(LEAST_RESPONSE);
        (FIRST + URGENCY * tried).min(most.max(FIRST))
    }

    /// A queue of ours stood for `dt`. Says whether our trying is to blame for
    /// it, and not a dip of the link.
    pub fn full(&mut self, rate: f64, dt: f64) -> bool {
        self.look(rate, dt);
        if self.clear > 0.0 {
            let tried = self.goal.is_some() && self.grew.1 > self.grew.0 * TRIED;
            self.excused = if tried { EXCUSED } else { 0.0 };
            if tried {
                self.hold = (self.hold * 2.0).clamp(HELD, MOST_HELD);
            }
            self.clear = 0.0;
        }
        if let Some(goal) = &mut self.goal {
            *goal += (rate - *goal) * towards(dt, BELIEVE);
        }
        self.excused = (self.excused - dt).max(0.0);
        self.excused > 0.0
    }

    fn look(&mut self, rate: f64, dt: f64) {
        self.age = (self.age + dt).min(2.0 * LONGEST);
        match self.goal {
            None if rate < self.usual * DEEP => {
                self.goal = Some(self.usual * SHARE);
                (self.age, self.clear, self.hold) = (0.0, 0.0, 0.0);
            }
            None => self.usual += (rate - self.usual) * towards(dt, USUAL),
            Some(goal) if rate >= goal || self.age > LONGEST => {
                self.goal = None;
                self.usual = rate;
            }
            Some(_) => {}
        }
        debug_assert!(self.usual.is_finite());
    }
}

/// Share of the way that a filter with this time constant goes in `dt`.
pub fn towards(dt: f64, time_constant: f64) -> f64 {
    1.0 - (-dt / time_constant).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of feedback.
    const STEP: f64 = 0.05;
    const RESPONSE: f64 = 0.1;

    /// 2 Mbit/s for half a minute.
    fn usual() -> Comeback {
        let mut comeback = Comeback::new(3e5);
        for _ in 0..600 {
            assert_eq!(comeback.open(2e6, STEP, true, RESPONSE), 0.0);
        }
        comeback
    }

    /// ... and then nothing.
    fn fallen() -> Comeback {
        let mut comeback = usual();
        assert!(!comeback.full(3e4, STEP));
        comeback
    }

    /// The growth after each step.
    fn open(comeback: &mut Comeback, rate: f64, steps: usize) -> Vec<f64> {
        (0..steps)
            .map(|_| comeback.open(rate, STEP, true, RESPONSE))
            .collect()
    }

    #[test]
    fn a_small_fall_is_no_hurry() {
        let mut comeback = usual();
        assert!(!comeback.full(2e6 * (DEEP + 0.05), STEP));
        assert_eq!(comeback.goal(), None);
        assert_eq!(comeback.open(1e6, STEP, true, RESPONSE), 0.0);
    }

    #[test]
    fn after_a_deep_fall_the_growth_rises_to_what_the_response_allows() {
        let mut comeback = fallen();
        let goal = comeback.goal().expect("a fall");
        // The half second before: 1 - e^(-0.05 s / 6 s) of the way down.
        assert!((goal / (2e6 * SHARE) - 1.0).abs() < 0.02, "{goal}");
        let growth = open(&mut comeback, 1e5, 60);
        assert!((growth[0] - (FIRST + URGENCY * STEP)).abs() < 1e-9);
        assert!(growth.is_sorted());
        assert!((growth[59] - STRIDE / RESPONSE).abs() < 1e-9);
        let mut slow = fallen();
        let most = slow.open(1e5, STEP, true, 1.0);
        assert_eq!(most, FIRST, "late feedback is no reason to be slower");
    }

    #[test]
    fn what_the_application_does_not_send_is_no_try() {
        let mut comeback = fallen();
        for _ in 0..60 {
            let growth = comeback.open(1e5, STEP, false, RESPONSE);
            assert_eq!(growth, FIRST);
        }
    }

    #[test]
    fn at_most_of_the_usual_rate_the_hurry_is_over() {
        let mut comeback = fallen();
        let goal = comeback.goal().expect("a fall");
        assert!(comeback.open(goal * 0.99, STEP, true, RESPONSE) > 0.0);
        assert_eq!(comeback.open(goal, STEP, true, RESPONSE), 0.0);
        assert_eq!(comeback.goal(), None);
    }

    #[test]
    fn each_try_that_meets_a_queue_makes_the_next_one_wait() {
        let mut comeback = fallen();
        for n in 0..5 {
            let waits = [0.0, HELD, 2.0 * HELD, MOST_HELD, MOST_HELD][n];
            let growth = open(&mut comeback, 1e5, 60);
            let waited = growth.iter().take_while(|growth| **growth == 0.0).count();
            let off = waited as f64 * STEP - waits;
            assert!((-0.11..0.01).contains(&off), "{n}: {waited} steps");
            comeback.open(2e5, STEP, true, RESPONSE);
            comeback.full(2e5, STEP);
        }
    }

    #[test]
    fn the_queue_of_a_try_is_excused_and_no_other() {
        let mut comeback = fallen();
        open(&mut comeback, 1e5, 1);
        assert!(!comeback.full(1e5, STEP), "it has not grown");
        open(&mut comeback, 1e5, 1);
        open(&mut comeback, 1e5 * TRIED * 1.01, 1);
        let excused = (0..20).take_while(|_| comeback.full(1e5, STEP)).count();
        let time = excused as f64 * STEP;
        assert!((time - EXCUSED).abs() < 0.06, "{time} s");
        let mut comeback = usual();
        open(&mut comeback, 1e6, 1);
        open(&mut comeback, 1.5e6, 1);
        assert!(!comeback.full(1.5e6, STEP), "nobody is coming back");
    }

    #[test]
    fn a_lasting_fall_is_believed() {
        let mut comeback = fallen();
        for _ in 0..(BELIEVE / STEP) as usize {
            comeback.full(5e5, STEP);
        }
        // 1.7 Mbit/s before, and 1 / e of the way is left.
        let goal = comeback.goal().expect("not yet");
        assert!((goal - (5e5 + 1.2e6 / 1f64.exp())).abs() < 2e4, "{goal}");
        for _ in 0..((LONGEST - BELIEVE) / STEP) as usize + 2 {
            comeback.full(5e5, STEP);
        }
        assert_eq!(comeback.goal(), None);
        assert_eq!(comeback.usual, 5e5, "this is usual now");
    }
}
