// SPDX-License-Identifier: MPL-2.0
//! rtpkalmanjitterbuffer, mostly on a clock that moves only when the test says
//! so. Each part tests what the element's documentation says.

mod caps;
mod common;
mod delay;
mod events;
mod hostile;
mod loss;
mod outage;
mod retransmission;
mod rtcp;
mod rtpbin;
mod sender;
