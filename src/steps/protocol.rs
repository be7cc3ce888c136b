//! What the nodes that take part in one order say to each other, by that order in Consul.

use super::run::Run;
use super::{Done, Stop};
use crate::error::Fault;
use crate::model::members;
use crate::model::order::{Order, State};
use crate::orders;
use crate::outside::consul::Op;

impl Run {
    /// Reads the order again. `Ok`: it is open.
    pub fn refresh(&mut self) -> Done {
        let (order, index) = match orders::read(&self.here.consul, &self.name, &self.order.id) {
            Ok(read) => read,
            Err(crate::error::Error::Fault(why @ Fault::Vanished { .. })) => return Err(Stop::Obey(why.to_string())),
            Err(why) => return Err(why.into()),
        };
        self.index = index.unwrap_or(self.index);
        self.order = order;
        match self.order.state {
            State::Done => Err(Stop::Done),
            State::Failed => Err(Stop::Obey(self.order.reason.clone().unwrap_or_else(|| "for an unknown reason".into()))),
            State::Open | State::Ready | State::Sent => Ok(()),
        }
    }

    /// Changes the open order by check-and-set.
    pub fn update(&mut self, change: impl Fn(&mut Order)) -> Done {
        loop {
            let mut next = self.order.clone();
            change(&mut next);
            if let Some(index) = self.here.consul.cas(&next.key(), &orders::text(&next)?, self.index)? {
                self.index = index;
                self.order = next;
                return Ok(());
            }
            self.refresh()?;
        }
    }

    /// Finishes the order as done, together with `changes`, or not at all. `finished` fills in what is to stand in the history.
    pub fn finish_order(&mut self, changes: &[Op], finished: impl Fn(&mut Order)) -> Done {
        loop {
            let mut order = self.order.clone();
            order.state = State::Done;
            order.finished = Some(self.here.world.clock.now().rfc3339());
            finished(&mut order);
            if orders::finish(&self.here, &order, self.index, changes)? {
                self.order = order;
                return Ok(());
            }
            let index = self.index;
            match self.refresh() {
                // An attempt whose answer was lost.
                Err(Stop::Done) => return Ok(()),
                Ok(()) if self.index != index => {} // the other node wrote its progress in between
                Ok(()) => return Err(Fault::RecordChanged { app: self.name.clone() }.into()),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Waits until `ready` of the order holds, while the node `peer` is alive.
    pub fn wait_for(&mut self, peer: &str, what: &'static str, ready: impl Fn(&Order) -> bool) -> Done {
        let uptime = |run: &Run| run.here.world.clock.uptime();
        let start = uptime(self);
        let (limit, timeout) = (self.here.settings.timeouts.handover, self.here.settings.timeouts.order);
        loop {
            let (entry, index) = self.here.consul.get_indexed(&self.order.key())?;
            let Some(entry) = entry else {
                self.refresh()?;
                continue; // it was made anew in between: that it is open is nothing that was waited for
            };
            self.order = orders::parse(&entry)?;
            self.index = entry.modify_index;
            if self.order.state == State::Failed {
                return self.refresh();
            }
            if ready(&self.order) {
                return Ok(());
            }
            let waited = uptime(self).saturating_sub(start);
            if waited > limit {
                return Err(Fault::PeerSlow { peer: peer.into(), what, secs: limit.as_secs() }.into());
            }
            if !self.order.progress.contains_key(peer) && waited > timeout {
                return Err(Fault::PeerAbsent { peer: peer.into(), secs: timeout.as_secs() }.into());
            }
            if !members::alive(&self.here.consul.members()?, peer) {
                return Err(Fault::PeerDied { peer: peer.into(), what }.into());
            }
            self.here.consul.wait(&self.order.key(), index)?;
        }
    }
}
