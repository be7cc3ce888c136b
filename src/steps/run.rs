//! One run of an order: what its steps work on, and what they need to know.

use std::path::PathBuf;

use log::warn;

use super::Stop;
use super::journal::{Journal, Part};
use super::output::{Checked, Images, Output, Restored, Snapshots};
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::members;
use crate::model::names::{App, AppName, Project, Volume};
use crate::model::order::{Order, Origin, Request};
use crate::model::record::Record;
use crate::model::roles::{Role, role_in};
use crate::outside::cmd;
use crate::outside::compose::{self, Checkout, Tool};
use crate::outside::compose_file::Compose;
use crate::routes::{self, Routes};

/// A checkout with its compose file read.
pub struct Loaded {
    pub checkout: Checkout,
    pub compose: Compose,
    pub routes: Routes,
}

pub struct Run {
    /// With this run's patience and mark.
    pub here: Here,
    pub app: App,
    pub name: AppName,
    pub project: Project,
    /// The order as last seen, and its index.
    pub order: Order,
    pub index: u64,
    pub journal: Journal,
    /// Whether the order was in the history when it was last decided about.
    pub archived: bool,
    /// Why the old version is not well after an undo.
    pub unwell: Option<String>,
    /// The other node's boot when this run began to send to it.
    pub sent_in: Option<String>,
    loaded: Option<Loaded>,
    tool: Option<Tool>,
}

impl Run {
    pub fn new(here: &Here, journal: Journal, order: Order, index: u64) -> Run {
        let here = here.marked(&here.paths.mark(&order.id));
        let name = order.name.clone();
        Run {
            here,
            app: order.request.app(),
            project: name.project(),
            name,
            order,
            index,
            journal,
            archived: false,
            unwell: None,
            sent_in: None,
            loaded: None,
            tool: None,
        }
    }

    pub fn old(&self) -> Option<&Record> {
        self.journal.header.old.as_ref().map(|(record, _)| record)
    }

    /// The index of the record when the order was taken; 0 without one.
    pub fn old_index(&self) -> u64 {
        self.journal.header.old.as_ref().map_or(0, |(_, index)| *index)
    }

    pub fn old_role(&self) -> Result<Role, Stop> {
        Ok(role_in(self.old(), self.here.me()?))
    }

    pub fn old_volumes(&self) -> Vec<Volume> {
        self.old().map(|record| record.volumes.clone()).unwrap_or_default()
    }

    fn output<T>(&self, of: impl Fn(&Output) -> Option<T>) -> Option<T> {
        self.journal.outputs().find_map(of)
    }

    /// The commit that was cloned.
    pub fn cloned(&self) -> Option<String> {
        self.output(|output| if let Output::Cloned(cloned) = output { Some(cloned.commit.clone()) } else { None })
    }

    /// What the check has found. A source checks nothing: all that it has is the old deployment's.
    pub fn checked(&self) -> Result<Checked, Fault> {
        match self.output(|output| if let Output::Checked(checked) = output { Some(checked.clone()) } else { None }) {
            Some(checked) => Ok(checked),
            None if self.journal.header.part == Part::Source || matches!(self.order.request, Request::Destroy(_)) => Ok(Checked::default()),
            None => Err(Fault::Impossible { what: "a step after the check, without what it has found" }),
        }
    }

    /// As this order has pulled and built them.
    pub fn images(&self) -> Images {
        let all = self.journal.outputs().filter_map(|output| if let Output::Images(images) = output { Some(images) } else { None });
        all.flatten().map(|(name, id)| (name.clone(), id.clone())).collect()
    }

    /// Of the old containers.
    pub fn old_images(&self) -> Result<Images, Fault> {
        match self.output(|output| if let Output::Ran(images) = output { Some(images.clone()) } else { None }) {
            Some(images) => Ok(images),
            None => Ok(self.checked()?.images),
        }
    }

    /// The snapshots of the switch.
    pub fn taken(&self) -> Option<Snapshots> {
        self.output(|output| if let Output::Taken(taken) = output { Some(taken.clone()) } else { None })
    }

    pub fn sent(&self) -> Option<Snapshots> {
        self.output(|output| if let Output::Sent(sent) = output { Some(sent.clone()) } else { None })
    }

    pub fn restored(&self) -> Option<Restored> {
        self.output(|output| if let Output::Restored(restored) = output { Some(restored.clone()) } else { None })
    }

    /// Volume of the source → snapshot on this node to restore from: what was sent, a dead master's replicas, or a neighbour's own. Nothing
    /// for an order that brings no data.
    pub fn received(&self) -> Result<Snapshots, Fault> {
        if self.takes_over() {
            let chosen = self.restored().map(|restored| restored.chosen).filter(|chosen| !chosen.is_empty());
            return chosen.map_or_else(|| Ok(self.checked()?.replicas), Ok);
        }
        let received = self.output(|output| match output {
            Output::Received(snapshots) | Output::Copied(snapshots) => Some(snapshots.clone()),
            _ => None,
        });
        Ok(received.unwrap_or_default())
    }

    /// A takeover looks again right before it restores, and right before the commit: a master that lives after all has the newer data.
    pub fn master_is_dead(&self) -> Result<(), Error> {
        match self.old().filter(|_| self.takes_over()) {
            Some(old) if members::alive(&self.here.consul.members()?, &old.master) => {
                Err(Fault::MasterLives { master: old.master.clone() }.into())
            }
            _ => Ok(()),
        }
    }

    /// What a volume holds over which the undo goes back.
    pub fn failed(&self) -> String {
        format!("what the version of the order {}, which failed, had made of it", self.order.id)
    }

    /// What a volume held into which the order has brought other data.
    pub fn replaced(&self) -> String {
        format!("what it held before the order {} brought other data", self.order.id)
    }

    /// From a dead master.
    pub fn takes_over(&self) -> bool {
        matches!(self.order.request, Request::Deploy(_)) && self.journal.header.origin == Some(Origin::Dead)
    }

    /// The checkout that the order makes, or for a migrate the one that runs.
    pub fn folder(&self) -> PathBuf {
        match (&self.order.request, self.old()) {
            (Request::Migrate(_), Some(record)) => self.here.paths.checkout(&self.name, &record.deploy_id),
            _ => self.here.paths.checkout(&self.name, &(&self.order.id).into()),
        }
    }

    pub fn tool(&mut self) -> Result<Tool, Error> {
        match &self.tool {
            Some(tool) => Ok(tool.clone()),
            None => Ok(self.tool.insert(Tool::find(&self.here.world)?).clone()),
        }
    }

    pub fn load(&mut self, folder: PathBuf) -> Result<Loaded, Error> {
        let tool = self.tool()?;
        let (checkout, compose) = self.here.read_checkout(&self.project, folder, tool)?;
        let routes = match (routes::read(&compose.services, &self.here.settings.routes), self.old()) {
            (Err(why), Some(old)) if self.brings_nothing_new() => {
                warn!("routes as they are, though a new version with them would be refused: {why}");
                Routes::of_record(old)
            }
            (read, _) => read?,
        };
        Ok(Loaded { checkout, compose, routes })
    }

    /// What is deployed already does not fall by rules that are newer than it: it may have to be taken over at night.
    pub fn brings_nothing_new(&self) -> bool {
        matches!(self.order.request, Request::Migrate(_))
            || self.old().is_some_and(|old| old.commit.is_some() && old.commit == self.cloned())
    }

    /// The checkout of this order.
    pub fn loaded(&mut self) -> Result<&Loaded, Error> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.load(self.folder())?,
        };
        Ok(self.loaded.insert(loaded))
    }

    /// The checkout of this order, unless it is damaged. That Compose does not answer says nothing of it, nor that the disk does not.
    pub fn readable(&mut self) -> Result<Option<&Loaded>, Error> {
        if self.tool_if_any()?.is_some()
            && let Err(why) = self.loaded()
        {
            if matches!(why, Error::Disk(_) | Error::Compose(compose::Error::Disk(_))) {
                return Err(why);
            }
            warn!("{why}");
        }
        Ok(self.loaded.as_ref())
    }

    /// Nothing where there is no Compose, or too old a one: asked again, it would say the same.
    fn tool_if_any(&mut self) -> Result<Option<Tool>, Error> {
        match self.tool() {
            Err(Error::Compose(compose::Error::Version(cmd::Error::NotFound { .. }) | compose::Error::TooOld { .. })) => Ok(None),
            tool => Ok(Some(tool?)),
        }
    }

    /// The checkout that ran before, if it is still there and readable. That Compose does not answer says nothing of it.
    pub fn old_checkout(&mut self) -> Result<Option<(Checkout, Compose)>, Error> {
        let Some(old) = self.old() else { return Ok(None) };
        let folder = self.here.paths.checkout(&self.name, &old.deploy_id);
        let Some(tool) = self.tool_if_any()? else { return Ok(None) };
        match self.here.read_checkout(&self.project, folder, tool) {
            Ok(read) => Ok(Some(read)),
            Err(why) => {
                warn!("{why}; going by the containers' labels");
                Ok(None)
            }
        }
    }

    /// What the record is to name: each of these is there. One that no service of this version uses without being asked for, by its profile,
    /// is among them if it was here before or has come with a move.
    pub fn data_volumes(&mut self) -> Result<Vec<Volume>, Error> {
        let (existing, received) = (self.checked()?.existing, self.received()?);
        let there = |name: &Volume| existing.contains(name) || received.contains_key(name);
        let volumes = self.loaded()?.compose.volumes.iter().filter(|volume| volume.data && (volume.made || there(&volume.name)));
        Ok(volumes.map(|volume| volume.name.clone()).collect())
    }
}
