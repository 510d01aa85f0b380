// SPDX-License-Identifier: MPL-2.0
//! The bandwidth estimator in a closed loop: source, pacer, bottleneck,
//! receiver and feedback, in virtual time.

mod figures;
mod flow;
mod run;

pub use figures::{Spread, jain, queue, share, utilisation};
pub use flow::{Demand, Flow};
pub use run::{BIN, Bin, Cross, FlowBins, Outcome, Scenario, run};
