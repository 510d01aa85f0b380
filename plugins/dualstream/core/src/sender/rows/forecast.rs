// SPDX-License-Identifier: MPL-2.0
//! What a picture will come to, and what is looked out for.

use super::{Costs, Rows, Way};

/// What is looked out for, where nothing is measured and where it is.
const CASES: [Cases; 2] = [
    Cases {
        dearer: 0.3,
        finer: 0.3,
        detail: 2.5,
        cheaper: (0.4, 0.3),
    },
    Cases {
        dearer: 0.3,
        finer: 0.1,
        detail: 1.5,
        cheaper: (0.4, 0.6),
    },
];

struct Cases {
    /// All dearer: by so many octaves, and so many more for each finer step, two at
    /// most, and detail so many times as dear.
    dearer: f64,
    finer: f64,
    detail: f64,
    /// Rows before any other cheaper: by so many octaves, and detail by this factor.
    cheaper: (f64, f64),
}

/// What is thought, and what is looked out for.
pub(super) struct Forecast {
    pub(super) thought: Costs,
    dearer: Costs,
    dear: Costs,
    cheap: Costs,
}

impl Forecast {
    /// The bits of the picture in the worst case, and which that is.
    pub(super) fn worst(&self, way: &Way) -> (f64, usize) {
        let count = self.dear.len();
        let cases = (count / 4..=count).map(|case| (self.case(way, case, |_| ()), case));
        let worst = cases.max_by(|a, b| a.0.total_cmp(&b.0));
        worst.unwrap_or_default()
    }

    /// With the choices and bits of the groups.
    pub(super) fn worst_way(&self, way: &Way) -> (f64, Vec<(usize, f64)>) {
        let mut path = Vec::with_capacity(self.dear.len());
        let (bits, case) = self.worst(way);
        self.case(way, case, |group| path.push(group));
        (bits, path)
    }

    /// The groups before this one cheaper and the others dearer, or all, if it is
    /// none.
    fn case(&self, way: &Way, case: usize, mut seen: impl FnMut((usize, f64))) -> f64 {
        let count = self.dear.len();
        way.bits(count, |group, choice| {
            let costs = match case {
                _ if case == count => &self.dearer,
                _ if group < case => &self.cheap,
                _ => &self.dear,
            };
            seen((choice, costs[group][choice]));
            costs[group][choice]
        })
    }
}

impl Rows {
    /// With more or less care, and rows that are so many octaves dearer.
    pub(super) fn forecast(&self, care: f64, more: f64) -> Forecast {
        let cases = &CASES[usize::from(self.measured.known())];
        let finer = cases.finer * care;
        let detail = 1.0 + (cases.detail - 1.0) * care;
        let cheaper = cases.cheaper;
        Forecast {
            thought: self.costs(0.0, 0.0, 1.0),
            dearer: self.costs(cases.dearer * care, finer, detail),
            dear: self.costs(more, finer, detail),
            cheap: self.costs(-cheaper.0 * care, 0.0, cheaper.1),
        }
    }
}
