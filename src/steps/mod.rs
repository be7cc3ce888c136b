//! Carrying an order out on this node: planned purely, journaled before each step begins, all undone in reverse if one fails before the
//! commit.
//!
//! [`table`] has every rule of a step in one row, beside its act and its undo; these stand in [`prepare`], [`handover`], [`switch`],
//! [`takeover`],
//! [`turn`], [`commit`] and [`retire`]; [`others`] is what another application has; [`gate`] is closed between stop and commit. [`plan`]
//! computes which steps; [`machine`] goes through them, forward and back, by the [`journal`]; what steps work on is a [`run`], what they
//! leave for each other an [`output`]; [`protocol`] is what the nodes of one order say to each other; [`verdict`] is what becomes of a
//! journal that was left.

pub mod commit;
pub mod gate;
pub mod handover;
pub mod health;
pub mod journal;
pub mod machine;
pub mod others;
pub mod output;
pub mod plan;
pub mod prepare;
pub mod protocol;
pub mod retire;
pub mod run;
pub mod switch;
pub mod table;
pub mod takeover;
pub mod turn;
pub mod verdict;

use crate::error::{Error, ends_with_an_error};

/// Why the steps of a run end early.
#[derive(Debug)]
pub enum Stop {
    /// A step failed: undo, and the order fails with this reason.
    Failed(Error),
    /// Somebody else has failed the order, for this reason: undo.
    Obey(String),
    /// Somebody else has finished the order.
    Done,
    /// Consul is out of reach, so nothing can be known: leave everything, the journal brings it back.
    Away(Error),
}

/// Each kind of error ends the steps in its way.
impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        if error.is_out_of_reach() { Stop::Away(error) } else { Stop::Failed(error) }
    }
}

ends_with_an_error!(Stop);

type Done = Result<(), Stop>;
