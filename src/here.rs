//! This node: its settings, the doors to its world, its name, its files and its checkouts.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::info;

use crate::error::{Error, Fault, text_of};
use crate::model::names::{AppName, DeployId, Host, NodeName, OrderId, Project, Snapshot};
use crate::model::variables::Variables;
use crate::outside::caddy::Caddy;
use crate::outside::compose::{self, Checkout, Of, Tool};
use crate::outside::compose_file::Compose;
use crate::outside::consul::{self, Consul};
use crate::outside::doors::World;
use crate::outside::engine::{self, Engine};
use crate::outside::git::Git;
use crate::outside::plugin::Plugin;
use crate::settings::Settings;

/// A health check has seconds.
const HURRY: Duration = Duration::from_secs(2);

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

    /// What a person has in an editor; gone afterwards.
    pub fn to_edit(&self, process: u32) -> PathBuf {
        self.own.join(format!("edit-{}.yml", process))
    }

    pub fn log(&self) -> PathBuf {
        self.deploy_dir.join("handler.log")
    }

    /// Held for a moment by whoever changes what is nobody's alone; an older handler held it for its whole run.
    pub fn lock(&self) -> PathBuf {
        self.own.join("lock")
    }

    /// A folder for each application that this node has had to do with.
    pub fn apps(&self) -> PathBuf {
        self.own.join("apps")
    }

    pub fn app(&self, name: &AppName) -> PathBuf {
        self.apps().join(&**name)
    }

    /// What this node is in the middle of with an application.
    pub fn journal(&self, name: &AppName) -> PathBuf {
        self.app(name).join("journal")
    }

    /// The journal of an order whose undo a person has taken over.
    pub fn given_up(&self, name: &AppName, order: &str) -> PathBuf {
        self.app(name).join(format!("{order}.{GIVEN_UP}"))
    }

    /// What this node runs or keeps of an application.
    pub fn state(&self, name: &AppName) -> PathBuf {
        self.app(name).join("state.json")
    }

    /// The orders of an application that this node has done, a line each.
    pub fn done(&self, name: &AppName) -> PathBuf {
        self.app(name).join("done")
    }

    /// The order of an application that nobody has taken up, and since when this node sees that.
    pub fn untaken(&self, name: &AppName) -> PathBuf {
        self.app(name).join("untaken")
    }

    /// How often what should run here was started again, and what kept it from it.
    pub fn starts(&self, name: &AppName) -> PathBuf {
        self.app(name).join("starts.json")
    }

    /// How often a health check has started a worker for an application.
    pub fn tried(&self, name: &AppName) -> PathBuf {
        self.app(name).join("tried.json")
    }

    /// The same for what is to be done about its sets.
    pub fn tried_sets(&self, name: &AppName) -> PathBuf {
        self.app(name).join("tried-sets.json")
    }

    /// The same for a run that looks at all of them.
    pub fn tried_all(&self) -> PathBuf {
        self.own.join("tried.json")
    }

    /// What the last probe has found, and how often a health check has started one.
    pub fn probed(&self) -> PathBuf {
        self.own.join("probe.json")
    }

    pub fn tried_probe(&self) -> PathBuf {
        self.own.join("tried-probe.json")
    }

    /// The records by which the proxies' files were written last, and how often a health check has had them written.
    pub fn routed(&self) -> PathBuf {
        self.own.join("routed")
    }

    pub fn tried_routes(&self) -> PathBuf {
        self.own.join("tried-routes.json")
    }

    /// The sets that this node has taken or confirmed; and what is held by whoever changes anything about them.
    pub fn sets(&self, name: &AppName) -> (PathBuf, PathBuf) {
        (self.app(name).join("sets"), self.app(name).join("sets.lock"))
    }

    /// What was there when the set was begun that is being taken: of each volume.
    pub fn begun(&self, name: &AppName) -> PathBuf {
        self.app(name).join("begun")
    }

    /// The sets that an order has left, until they are taken in among those.
    pub fn left(&self, name: &AppName, order: &OrderId) -> PathBuf {
        self.app(name).join(format!("{order}{LEFT}"))
    }

    /// Held by the worker of an application, and by the one that waits for it.
    pub fn worker_locks(&self, name: &AppName) -> (PathBuf, PathBuf) {
        (self.app(name).join("lock"), self.app(name).join("next"))
    }

    /// Where older handlers had the journals, a file for each order, and what the node remembers of all its applications.
    pub fn older(&self) -> (PathBuf, PathBuf) {
        (self.own.join("journal"), self.own.join("state.json"))
    }

    /// What the processes of an order carry, so that a later run can end them; the same in older handlers.
    pub fn mark(&self, id: &OrderId) -> String {
        self.own.join("journal").join(&**id).to_string_lossy().into_owned()
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

    /// Names of snapshots that are no replicas, a line each; and where older handlers had them, whose file can have no room of its own.
    pub fn own_snapshots(&self) -> [PathBuf; 2] {
        [self.own.join("own"), self.own.join("own-snapshots")]
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

    /// The application's folder, on the disk when this returns: what is written into it must not be lost with it.
    pub fn prepare_app(&self, world: &World, name: &AppName) -> Result<(), Error> {
        world.create_folder(&self.app(name))?;
        for folder in [&self.apps(), &self.own, &self.deploy_dir] {
            world.sync_folder(folder)?;
        }
        Ok(())
    }

    /// Makes the folders, and sees that they are this user's and nobody else's. Checkouts are left as git makes them: containers of other users
    /// have folders of them mounted.
    pub fn prepare(&self, world: &World) -> Result<(), Error> {
        world.create_shared_folder(&self.deploy_dir)?;
        for folder in [self.inbox(), self.apps()] {
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

/// What the name of a file ends with that has what an order has left.
pub const LEFT: &str = ".left";

/// What the name of a journal ends with whose undo a person has taken over.
pub const GIVEN_UP: &str = "given-up";

#[derive(Clone)]
pub struct Here {
    pub settings: Settings,
    pub world: World,
    pub consul: Consul,
    pub paths: Paths,
    /// How long the engine and the plugin are waited for where they are only asked.
    quick: Duration,
    me: OnceCell<(NodeName, Host)>,
}

impl Here {
    pub fn new(settings: Settings, world: World) -> Here {
        let consul = Consul::new(&world, settings.timeouts.consul);
        let paths = Paths::new(&settings.deploy_dir);
        Here { settings, world, consul, paths, quick: engine::QUICK, me: OnceCell::new() }
    }

    /// The same node for one that has to be quick: whoever does not answer at once does not answer.
    pub fn hurried(&self) -> Here {
        Here { consul: self.consul.patient(Duration::ZERO), quick: HURRY, ..self.clone() }
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
        Plugin::new(&self.world, self.settings.timeouts.send, self.quick)
    }

    /// Whether this node sees the plugin's snapshots as btrfs has them.
    pub fn sees_snapshots(&self) -> Result<bool, Error> {
        Ok(self.world.is_on_btrfs(&self.settings.snapshots)?)
    }

    /// Where the plugin has it.
    pub fn snapshot(&self, snapshot: &Snapshot) -> PathBuf {
        self.settings.snapshots.join(&**snapshot)
    }

    /// `None`: the operator has proxies of his own.
    pub fn caddy(&self, patience: Duration) -> Option<Caddy> {
        self.settings.routes.admin.as_ref().map(|_| Caddy::new(&self.world, patience))
    }

    pub fn engine(&self) -> Engine<'_> {
        Engine { world: &self.world, patience: self.quick }
    }

    fn checkout(&self, project: &Project, folder: PathBuf, tool: Tool) -> Result<Checkout, Error> {
        // As its containers were made, or compose would make them anew.
        let quiet = self.world.is_file(&folder.join(compose::QUIET));
        let variables = self.variables(&folder)?;
        Ok(Checkout { project: project.clone(), folder, tool, quiet, variables })
    }

    /// Of a checkout.
    pub fn variables(&self, folder: &Path) -> Result<Variables, Error> {
        let path = folder.join(compose::VARIABLES);
        let Some(text) = self.world.read_file(&path, compose::MOST)? else { return Ok(Variables::default()) };
        let at = path.display().to_string();
        Variables::read(&text).map_err(|source| Error::Json { at, what: "variables of an application", source })
    }

    fn parsed(&self, project: &Project, resolved: &[u8]) -> Result<Compose, Error> {
        let compose = Compose::parse(resolved, project, &self.settings.driver);
        compose.map_err(|source| Error::ComposeFile { file: "the compose file", source })
    }

    /// Has compose resolve the files of a fresh checkout, which the caller syncs. The variables stay with it, for all that is done with it.
    pub fn resolve_checkout(&self, project: &Project, folder: PathBuf, tool: Tool, variables: &Variables) -> Result<(), Error> {
        let path = folder.join(compose::VARIABLES);
        self.world.replace_file(&path, &text_of(path.display().to_string(), variables)?, false)?;
        self.checkout(project, folder, tool)?.resolve(&self.world, Of::All, false)?;
        Ok(())
    }

    /// A checkout with its resolved compose file read. A handler that resolved nothing may have made it: then it is resolved now.
    pub fn read_checkout(&self, project: &Project, folder: PathBuf, tool: Tool) -> Result<(Checkout, Compose), Error> {
        let checkout = self.checkout(project, folder, tool)?;
        let resolved = match checkout.resolved(&self.world)? {
            Some(resolved) => resolved,
            None => checkout.resolve(&self.world, Of::Main, true)?,
        };
        let compose = self.parsed(project, &resolved)?;
        Ok((checkout, compose))
    }

    /// What was resolved in a checkout on this node, if anything was: asks no compose, and changes nothing.
    pub fn resolved(&self, name: &AppName, id: &DeployId) -> Result<Option<Compose>, Error> {
        let resolved = self.world.read_file(&self.paths.checkout(name, id).join(compose::RESOLVED), compose::MOST)?;
        resolved.map(|resolved| self.parsed(&name.project(), &resolved)).transpose()
    }

    /// The applications that have a folder of their own among the handler's files.
    pub fn apps(&self) -> Result<Vec<AppName>, Error> {
        let names = self.world.list_folder(&self.paths.apps())?;
        Ok(names.into_iter().filter_map(|name| AppName::try_from(name).ok()).collect())
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
