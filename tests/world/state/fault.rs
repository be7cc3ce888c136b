//! What is to go wrong, and where.

use std::time::Duration;

use super::State;
use super::effect::{Effect, Kind};

/// What happens to a call.
pub enum Act {
    /// It is not done, and the caller is told so.
    Fail(String),
    /// It is done, but the caller is told that it failed, or hears nothing.
    Lose,
    KillBefore,
    KillAfter,
    /// It hangs until the caller gives up, and is not done.
    Hang,
    /// The handler is killed while it is being done; it is done so much later. Only of processes, and only inside.
    Orphan(Duration),
    Slow(Duration),
    /// It is done, and the answer is nonsense.
    Garble(&'static str),
    /// Something else happens first.
    First(Box<dyn FnMut(&mut State) + Send>),
}

impl Act {
    pub fn name(&self) -> &'static str {
        match self {
            Act::Fail(_) => "fails",
            Act::Lose => "loses its answer",
            Act::KillBefore => "killed before",
            Act::KillAfter => "killed after",
            Act::Hang => "hangs",
            Act::Orphan(_) => "killed in the middle",
            Act::Slow(_) => "slow",
            Act::Garble(_) => "answers nonsense",
            Act::First(_) => "something first",
        }
    }
}

pub type Hits = Box<dyn Fn(&Effect) -> bool + Send>;

struct Fault {
    hits: Hits,
    /// The how-manieth hit; every one for 0.
    nth: usize,
    seen: usize,
    act: Act,
}

#[derive(Default)]
pub struct Faults {
    left: Vec<Fault>,
    /// What has struck, in the order in which it did.
    pub struck: Vec<(Kind, &'static str)>,
}

impl Faults {
    pub fn add(&mut self, hits: Hits, nth: usize, act: Act) {
        self.left.push(Fault { hits, nth, seen: 0, act });
    }

    /// Takes back those that are left; answers whether all had struck.
    pub fn clear(&mut self) -> bool {
        self.left.drain(..).count() == 0
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub fn due(&mut self, effect: &Effect) -> Option<Act> {
        let mut due = None;
        for (i, fault) in self.left.iter_mut().enumerate() {
            if (fault.hits)(effect) {
                fault.seen += 1;
                if fault.nth == 0 || fault.seen == fault.nth {
                    due = due.or(Some(i));
                }
            }
        }
        let i = due?;
        self.struck.push((effect.kind, self.left[i].act.name()));
        match (&self.left[i].act, self.left[i].nth) {
            (Act::Fail(text), 0) => Some(Act::Fail(text.clone())),
            (Act::Slow(time), 0) => Some(Act::Slow(*time)),
            (Act::Hang, 0) => Some(Act::Hang),
            (_, 0) => panic!("only failing, slow and hanging can be for ever"),
            _ => Some(self.left.remove(i).act),
        }
    }
}

/// Calls of this node (of any, for "") whose line contains the text. Questions to services only where the text says GET.
pub fn by_text(node: &str, text: &str) -> Hits {
    let (node, text) = (node.to_owned(), text.to_owned());
    Box::new(move |effect| {
        let asks = effect.is_read && effect.kind != Kind::Process;
        (node.is_empty() || effect.node == node) && effect.line.contains(&text) && (!asks || text.contains("GET"))
    })
}

pub fn exactly(effect: &Effect) -> Hits {
    let wanted = effect.clone();
    Box::new(move |effect| *effect == wanted)
}
