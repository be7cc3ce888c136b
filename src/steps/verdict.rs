//! What becomes of a journal that a run has left, or whose run cannot go on: the record decides.
//!
//! What must hold:
//! - The record's deployment (a migrate's: its data) is this order's: it is done here, and only forward.
//! - The record is still the one that the journal was begun under: nobody has gone on without this node. Forward only if the new version had
//!   become healthy and the order is still open; it is started and awaited again. A source that has sent waits on. Else back.
//! - Anything else: somebody has gone on. Old knowledge is acted upon no more: nothing that runs is touched, nothing is removed, the journal
//!   goes, and what must not run here is fenced by the record.
//!
//! Other orders that failed since, or an order's key that vanished, change nothing of this. Pure.

use super::journal::Part;

/// What is known of the order now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    /// Failed, whether it stands in the history already or not.
    Failed,
    Done,
    /// Neither open nor in the history.
    Unknown,
}

/// What the record says to a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It is this order's.
    Ours,
    /// Not changed since the journal was begun.
    Unchanged,
    /// Changed by somebody else, and another node is the master now, or none.
    Others,
    /// Changed by somebody else, and this node is the master.
    Mine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub part: Part,
    pub says: Says,
    pub fate: Fate,
    /// Its undo has begun.
    pub going_back: bool,
    /// The new version had become healthy.
    pub healthy: bool,
    /// The order names what this node has sent.
    pub handed_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// From the step after the commit.
    Finish,
    /// Start what was healthy again, and go on.
    StartAgain,
    /// A source that has sent waits for the end.
    Await,
    Undo,
    /// The journal goes, and nothing else is done.
    Drop,
}

pub fn verdict(facts: Facts) -> Verdict {
    let Facts { part, says, fate, going_back, healthy, handed_over } = facts;
    match (says, fate, part) {
        (Says::Ours, _, Part::Source) if !handed_over => Verdict::Drop, // done in another way: what is here may be newer
        (Says::Ours, ..) => Verdict::Finish,
        // Done, and gone on from there since: a source's volumes are where they were sent, unless the application is back here.
        (Says::Others, Fate::Done, Part::Source) if handed_over => Verdict::Finish,
        (Says::Others | Says::Mine, ..) => Verdict::Drop,
        // Who says that it is done, and who says that nothing has changed, contradict each other.
        (Says::Unchanged, Fate::Done, _) => Verdict::Drop,
        (Says::Unchanged, Fate::Open, Part::Source) if handed_over && !going_back => Verdict::Await,
        (Says::Unchanged, Fate::Open, Part::Owner) if healthy && !going_back => Verdict::StartAgain,
        (Says::Unchanged, ..) => Verdict::Undo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 2] = [Part::Owner, Part::Source];
    const ALL_SAY: [Says; 4] = [Says::Ours, Says::Unchanged, Says::Others, Says::Mine];
    const FATES: [Fate; 4] = [Fate::Open, Fate::Failed, Fate::Done, Fate::Unknown];

    fn all() -> impl Iterator<Item = Facts> {
        let bools = || [false, true].into_iter();
        PARTS.into_iter().flat_map(move |part| {
            ALL_SAY.into_iter().flat_map(move |says| {
                FATES.into_iter().flat_map(move |fate| {
                    bools().flat_map(move |going_back| {
                        bools().flat_map(move |healthy| {
                            bools().map(move |handed_over| Facts { part, says, fate, going_back, healthy, handed_over })
                        })
                    })
                })
            })
        })
    }

    #[test]
    fn nothing_is_undone_or_removed_once_somebody_has_gone_on() {
        for facts in all() {
            let verdict = verdict(facts);
            if verdict == Verdict::Undo {
                assert_eq!(facts.says, Says::Unchanged, "{facts:?}");
                assert_ne!(facts.fate, Fate::Done, "{facts:?}");
            }
            // A source deletes only what was handed over, and never where it is the master.
            if verdict == Verdict::Finish && facts.part == Part::Source {
                assert!(facts.handed_over && facts.says != Says::Mine && facts.says != Says::Unchanged, "{facts:?}");
            }
            if matches!(verdict, Verdict::StartAgain | Verdict::Await) {
                assert!(facts.fate == Fate::Open && !facts.going_back, "{facts:?}");
            }
        }
    }

    #[test]
    fn what_the_record_names_is_never_taken_back() {
        for facts in all().filter(|facts| facts.says == Says::Ours) {
            assert_ne!(verdict(facts), Verdict::Undo, "{facts:?}");
        }
    }
}
