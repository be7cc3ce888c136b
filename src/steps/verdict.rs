//! What becomes of a journal that a run has left, or whose run cannot go on: the record decides.
//!
//! What must hold:
//! - The record's deployment (a migrate's: its data) is this order's: it is done here, and only forward.
//! - The record is still the one that the journal was begun under, or Consul was put back to an older one: nobody has gone on without this node.
//!   Forward only if the new version had become healthy and the order is still open; it is started and awaited again. A source that has sent
//!   waits on. Else back.
//! - Anything else: somebody has gone on. Old knowledge is acted upon no more: nothing that runs is touched, nothing is removed, the journal
//!   goes, and what must not run here is fenced by the record.
//! - There is no way back once the order is done: past the commit by the journal, or, where this node has handed over, by the history. That holds
//!   whatever became of Consul since. What is left to do goes on, unless the record contradicts it: one that names this node needs what was to be
//!   removed here, one that names another node wants nothing opened here. Then what is here is stopped and kept, and a person decides.
//!
//! | Consul since the commit | it was to be removed here | it was to be opened here |
//! |---|---|---|
//! | has the record of the order, or none at all | removed, by the one door | opened |
//! | names this node: put back | stopped, kept | opened: it has the newest data |
//! | names another node: put back, or taken over | removed | stopped, kept |
//!
//! A kill or a power failure leaves the same, from the first step after the commit on: that line is on the disk. Between the commit and that line
//! Consul alone tells of it. After the last step [`done`](crate::node::done) tells.
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
    /// Not changed by anybody else since the journal was begun.
    Unchanged,
    Changed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub part: Part,
    pub says: Says,
    pub fate: Fate,
    /// By the record this node is the master.
    pub mine: bool,
    /// The journal is past the commit.
    pub past: bool,
    /// What is left to do after the commit removes what is here; else it opens it.
    pub removes: bool,
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
    /// What is here is stopped and kept; it is done.
    Fence,
    /// The journal goes, and nothing else is done.
    Drop,
}

pub fn verdict(facts: Facts) -> Verdict {
    let Facts { part, says, fate, mine, past, removes, going_back, healthy, handed_over } = facts;
    match (says, fate, part) {
        (Says::Ours, _, Part::Source) if !handed_over && !past => Verdict::Drop, // done in another way: what is here may be newer
        (Says::Ours, ..) => Verdict::Finish,
        _ if past && removes == mine => Verdict::Fence,
        _ if past => Verdict::Finish,
        // A source's volumes are where they were sent, and more was written to them there.
        (_, Fate::Done, Part::Source) if handed_over && mine => Verdict::Fence,
        (_, Fate::Done, Part::Source) if handed_over => Verdict::Finish,
        (Says::Changed, ..) => Verdict::Drop,
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
    const ALL_SAY: [Says; 3] = [Says::Ours, Says::Unchanged, Says::Changed];
    const FATES: [Fate; 4] = [Fate::Open, Fate::Failed, Fate::Done, Fate::Unknown];

    fn all() -> impl Iterator<Item = Facts> {
        let said = PARTS.into_iter().flat_map(|part| ALL_SAY.into_iter().flat_map(move |says| FATES.map(|fate| (part, says, fate))));
        said.flat_map(|(part, says, fate)| {
            (0..1 << 6).map(move |bits| {
                let is = |bit: u32| bits & 1 << bit != 0;
                let (mine, past, going_back, healthy, handed_over) = (is(0), is(1), is(2), is(3), is(4));
                Facts { part, says, fate, mine, past, removes: part == Part::Source || is(5), going_back, healthy, handed_over }
            })
        })
    }

    #[test]
    fn nothing_is_undone_or_removed_once_somebody_has_gone_on() {
        for facts in all() {
            let verdict = verdict(facts);
            if verdict == Verdict::Undo {
                assert!(facts.says == Says::Unchanged && facts.fate != Fate::Done, "{facts:?}");
            }
            // A source deletes only what was handed over, and never where it is the master.
            if verdict == Verdict::Finish && facts.part == Part::Source {
                assert!(facts.handed_over || facts.past, "{facts:?}");
                assert!(facts.says == Says::Ours || !facts.mine && (facts.past || facts.fate == Fate::Done), "{facts:?}");
            }
            if matches!(verdict, Verdict::StartAgain | Verdict::Await) {
                assert!(facts.fate == Fate::Open && !facts.going_back, "{facts:?}");
            }
        }
    }

    #[test]
    fn what_is_done_is_never_taken_back() {
        for facts in all().filter(|facts| facts.says == Says::Ours || facts.past) {
            assert!(!matches!(verdict(facts), Verdict::Undo | Verdict::StartAgain | Verdict::Await), "{facts:?}");
        }
        for facts in all().filter(|facts| facts.past) {
            assert_ne!(verdict(facts), Verdict::Drop, "{facts:?}");
        }
    }
}
