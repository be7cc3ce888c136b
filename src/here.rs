//! This node: its settings, its agent, its files, and where it keeps checkouts.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use log::info;

use crate::model::order::{NodeName, OrderId};
use crate::model::record::All;
use crate::node::store::{self, Store};
use crate::outside::compose_file::{self as compose, Compose};
use crate::outside::consul::{self, Consul};
use crate::outside::engine::{Project, Tool};
use crate::settings::Settings;
use crate::steps::run::service_id;

pub struct Node {
    pub settings: Settings,
    pub consul: Consul,
    pub store: Store,
    me: OnceCell<(NodeName, String)>,
}

impl Node {
    pub fn new(settings: Settings, consul: Consul, store: Store) -> Node {
        Node { settings, consul, store, me: OnceCell::new() }
    }

    /// The name of this node; asked for once, and not at all by a run that has nothing to do.
    pub fn me(&self) -> Result<&NodeName, consul::Error> {
        Ok(&self.itself()?.0)
    }

    fn itself(&self) -> Result<&(NodeName, String), consul::Error> {
        if let Some(itself) = self.me.get() {
            return Ok(itself);
        }
        let itself = self.consul.me()?;
        Ok(self.me.get_or_init(|| itself))
    }

    /// Of a member of the cluster.
    pub fn address_of(&self, name: &str) -> Result<Option<String>, consul::Error> {
        let (me, address) = self.itself()?;
        if **me == *name {
            return Ok(Some(address.clone()));
        }
        Ok(self.consul.members()?.into_iter().find(|member| member.name == name).map(|member| member.address))
    }

    /// All records. Where they are many they are kept, and read anew only when one has changed.
    pub fn records(&self) -> Result<All, String> {
        const MANY: usize = 1 << 20;
        let kept = self.settings.deploy_dir.join(".handler/records");
        let context = |error: consul::Error| error.to_string();
        // Taken before the records are, so that what changes meanwhile makes it older, not newer, than they are. The index alone would not do:
        // it goes back when a deleted key is forgotten.
        let bytes = fs::read(&kept).ok();
        let version = if bytes.is_some() { format!("{:?}", self.consul.count("app/").map_err(context)?) } else { String::new() };
        if let Some(records) = bytes.and_then(|bytes| All::kept(bytes, &version)) {
            return Ok(records);
        }
        let mut records = All::new(&version);
        let listed = self.consul.each("app/", |entry| {
            records.push(entry.key.trim_start_matches("app/").as_bytes());
            records.push(&entry.value);
        });
        listed.map_err(context)?;
        if records.bytes().len() > MANY {
            store::write(&kept, records.bytes())?;
        }
        Ok(records)
    }

    pub fn checkout(&self, name: &str, id: &str) -> PathBuf {
        self.settings.deploy_dir.join(format!("{name}-{id}"))
    }

    /// The compose project of a checkout.
    pub fn project(&self, project: &str, folder: PathBuf, tool: Tool) -> Result<(Project, Compose), String> {
        let file = compose::FILES.iter().find(|file| folder.join(file).is_file());
        let file = file.ok_or_else(|| format!("{}: has none of {}", folder.display(), compose::FILES.join(", ")))?;
        let path = folder.join(file);
        let size = fs::metadata(&path).map(|data| data.len()).unwrap_or(0);
        if size > 1 << 20 {
            return Err(format!("{file}: larger than 1 MiB"));
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let compose = Compose::parse(&text, project, tool.dialect, &self.settings.driver).map_err(|error| format!("{file}: {error}"))?;
        Ok((Project { name: project.into(), folder, file: file.to_string(), tool }, compose))
    }

    /// The checkouts on this node: application's name, id, folder.
    pub fn checkouts(&self) -> Result<Vec<(String, OrderId, PathBuf)>, String> {
        let folder = &self.settings.deploy_dir;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            // <name>-<UUID>
            let Some((name, id)) = name.len().checked_sub(36).filter(|at| name.is_char_boundary(*at)).map(|at| name.split_at(at)) else {
                continue;
            };
            if let (Some(name), Ok(id)) = (name.strip_suffix('-'), OrderId::try_from(id.to_string())) {
                found.push((name.to_string(), id, path));
            }
        }
        Ok(found)
    }

    /// Removes the application's checkouts but the one to keep.
    pub fn remove_checkouts(&self, name: &str, keep: Option<&str>) -> Result<(), String> {
        for (_, id, path) in self.checkouts()?.into_iter().filter(|(app, id, _)| app == name && keep != Some(&**id)) {
            info!("removing the checkout {name}-{id}");
            store::remove_folder(&path)?;
        }
        Ok(())
    }

    /// The ID of the application's Consul service, as the checkout's `service.json` may have it.
    pub fn service_id(&self, name: &str, folder: &Path) -> String {
        let own = fs::read(folder.join("service.json")).ok().and_then(|text| crate::model::json::read(&text).ok());
        own.map(|service| service_id(&service)).filter(|id| !id.is_empty()).unwrap_or_else(|| name.into())
    }
}
