//! This node: its settings, the doors to its world, its name, its files and its checkouts.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use log::info;

use crate::error::{Error, Fault};
use crate::model::names::{AppName, DeployId, Host, NodeName, OrderId, Project};
use crate::outside::compose::{self, Checkout, Tool};
use crate::outside::compose_file::{self, Compose};
use crate::outside::consul::{self, Consul};
use crate::outside::doors::World;
use crate::outside::engine::Engine;
use crate::outside::git::Git;
use crate::outside::plugin::Plugin;
use crate::settings::Settings;

/// The handler's own files, below the deploy folder.
#[derive(Clone, Debug)]
pub struct Paths {
    pub deploy_dir: PathBuf,
    /// `.handler`
    own: PathBuf,
}

impl Paths {
    pub fn new(deploy_dir: &Path) -> Paths {
        Paths { deploy_dir: deploy_dir.into(), own: deploy_dir.join(".handler") }
    }

    pub fn log(&self) -> PathBuf {
        self.deploy_dir.join("handler.log")
    }

    /// Held by the run that is at work.
    pub fn lock(&self) -> PathBuf {
        self.own.join("lock")
    }

    /// One file for each order that this node is in the middle of.
    pub fn journals(&self) -> PathBuf {
        self.own.join("journal")
    }

    /// Events that have not become orders yet, a file each.
    pub fn inbox(&self) -> PathBuf {
        self.own.join("inbox")
    }

    /// The IDs of events that have been taken in, a line each.
    pub fn seen(&self) -> PathBuf {
        self.own.join("seen")
    }

    /// Consul's index at which there was nothing to do.
    pub fn quiet(&self) -> PathBuf {
        self.own.join("quiet")
    }

    /// What this node runs or keeps of each application.
    pub fn state(&self) -> PathBuf {
        self.own.join("state.json")
    }

    /// Names of snapshots that are no replicas, a line each.
    pub fn own_snapshots(&self) -> PathBuf {
        self.own.join("own-snapshots")
    }

    /// The proxies' files, unless the operator has them elsewhere.
    pub fn proxies(&self) -> PathBuf {
        self.own.join("proxies")
    }

    /// Held by the run that writes the proxies' files, and by the one that waits for it.
    pub fn routes_locks(&self) -> (PathBuf, PathBuf) {
        (self.own.join("routes.lock"), self.own.join("routes.next"))
    }

    pub fn checkout(&self, name: &AppName, id: &DeployId) -> PathBuf {
        self.deploy_dir.join(format!("{name}-{id}"))
    }

    /// Makes the folders, and sees that they are this user's and nobody else's. Checkouts are left as git makes them: containers of other users
    /// have folders of them mounted.
    pub fn prepare(&self, world: &World) -> Result<(), Error> {
        world.create_shared_folder(&self.deploy_dir)?;
        for folder in [self.inbox(), self.journals()] {
            world.create_folder(&folder)?;
        }
        // What another user has left can often be read but not replaced, and git refuses another's checkouts.
        let own = world.look_at(&self.own)?;
        let owner = own.map_or(0, |found| found.owner);
        let me = world.user()?;
        if owner != me {
            return Err(Fault::AnotherUser { folder: self.own.clone(), owner, me, deploy_dir: self.deploy_dir.clone() }.into());
        }
        // An older handler has made them.
        if own.is_some_and(|found| found.is_open()) {
            world.close_folder(&self.own, &self.proxies())?;
        }
        if world.look_at(&self.log())?.is_some_and(|found| found.is_open() && found.owner == me) {
            world.close_file(&self.log())?;
        }
        Ok(())
    }
}

#[derive(Clone)]
pub struct Here {
    pub settings: Settings,
    pub world: World,
    pub consul: Consul,
    pub paths: Paths,
    me: OnceCell<(NodeName, Host)>,
}

impl Here {
    pub fn new(settings: Settings, world: World) -> Here {
        let consul = Consul::new(&world, settings.timeouts.consul);
        let paths = Paths::new(&settings.deploy_dir);
        Here { settings, world, consul, paths, me: OnceCell::new() }
    }

    /// The name of this node; asked for once, and not at all by a run that has nothing to do.
    pub fn me(&self) -> Result<&NodeName, consul::Error> {
        Ok(&self.itself()?.0)
    }

    fn itself(&self) -> Result<&(NodeName, Host), consul::Error> {
        if let Some(itself) = self.me.get() {
            return Ok(itself);
        }
        let itself = self.consul.me()?;
        Ok(self.me.get_or_init(|| itself))
    }

    /// Of a member of the cluster.
    pub fn address_of(&self, name: &NodeName) -> Result<Host, Error> {
        let (me, address) = self.itself()?;
        if me == name {
            return Ok(address.clone());
        }
        let member = self.consul.members()?.into_iter().find(|member| member.name == **name);
        let address = member.and_then(|member| Host::try_from(member.address).ok());
        Ok(address.ok_or_else(|| Fault::NoAddress { node: name.to_string() })?)
    }

    /// The same node for one run: what it starts carries the mark, and its patience with Consul is its own.
    pub fn marked(&self, mark: &str) -> Here {
        Here { world: self.world.marked(mark), ..self.clone() }
    }

    pub fn git(&self) -> Git<'_> {
        Git { world: &self.world, deadline: self.settings.timeouts.git, own_ssh: self.settings.own_ssh, credential: None }
    }

    pub fn plugin(&self) -> Plugin {
        Plugin::new(&self.world, self.settings.timeouts.send)
    }

    pub fn engine(&self) -> Engine<'_> {
        Engine { world: &self.world }
    }

    /// A checkout with its compose file read.
    pub fn read_checkout(&self, project: &Project, folder: PathBuf, tool: Tool) -> Result<(Checkout, Compose), Error> {
        const MOST: u64 = 1 << 20;
        let file = compose_file::FILES.iter().find(|file| self.world.is_file(&folder.join(file)));
        let file = file.ok_or_else(|| Fault::NoComposeFile { folder: folder.clone() })?;
        // As its containers were made, or compose would make them anew.
        let quiet = self.world.is_file(&folder.join(compose::QUIET));
        let bytes = self.world.read_file(&folder.join(file), MOST)?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { path: folder.join(file) })?;
        let compose = Compose::parse(&text, project, &self.settings.driver);
        let compose = compose.map_err(|source| Error::ComposeFile { file, source })?;
        Ok((Checkout { project: project.clone(), folder, file: file.to_string(), tool, quiet }, compose))
    }

    /// The checkouts on this node: application's name, id, folder.
    pub fn checkouts(&self) -> Result<Vec<(AppName, OrderId, PathBuf)>, Error> {
        let mut found = Vec::new();
        for entry in self.world.list_folder(&self.paths.deploy_dir)? {
            // <name>-<UUID>
            let Some((name, id)) = entry.len().checked_sub(36).filter(|at| entry.is_char_boundary(*at)).map(|at| entry.split_at(at)) else {
                continue;
            };
            let name = name.strip_suffix('-').map(AppName::try_from);
            if let (Some(Ok(name)), Ok(id)) = (name, OrderId::try_from(id)) {
                found.push((name, id, self.paths.deploy_dir.join(&entry)));
            }
        }
        Ok(found)
    }

    /// Removes the application's checkouts but the one to keep.
    pub fn remove_checkouts(&self, name: &AppName, keep: Option<&DeployId>) -> Result<(), Error> {
        let mut old = self.checkouts()?;
        old.retain(|(app, id, _)| app == name && keep.is_none_or(|keep| **keep != **id));
        for (_, id, path) in &old {
            info!("removing the checkout {name}-{id}");
            self.world.remove_folder(path)?;
        }
        // Before anything is forgotten by which they would be found.
        if old.is_empty() { Ok(()) } else { Ok(self.world.sync_folder(&self.paths.deploy_dir)?) }
    }
}
