//! Docker and compose, 1 or 2: the containers, images and volumes of one compose project.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::outside::compose_file::Dialect;
use crate::outside::process::{Cmd, Error, installed};
use crate::settings::Timeouts;

/// For commands that only ask the engine.
const QUICK: Duration = Duration::from_secs(60);

/// A compose project in one of its checkouts.
#[derive(Clone, Debug)]
pub struct Project {
    pub name: String,
    pub folder: PathBuf,
    /// The compose file's name in the folder.
    pub file: String,
    pub tool: Tool,
}

/// The compose of this node.
#[derive(Clone, Debug)]
pub struct Tool {
    pub dialect: Dialect,
    program: String,
}

/// What `docker inspect` says of a container.
pub struct Container {
    pub id: String,
    pub name: String,
    /// The image's ID.
    pub image: String,
    /// The image's name, as the compose file or compose itself gave it.
    pub image_name: String,
    pub service: String,
    /// `running`, `exited` …
    pub status: String,
    pub exit_code: i64,
    pub restarts: u64,
    pub started_at: String,
    /// `starting`, `healthy` or `unhealthy`, and what the last check printed; `None` without a HEALTHCHECK.
    pub health: Option<(String, String)>,
}

impl Container {
    /// `None` for what is none.
    fn of(value: &Value) -> Option<Container> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (state, config) = (&value["State"], &value["Config"]);
        let health = |health: &Value| {
            let last = health["Log"].as_array().and_then(|log| log.last());
            (text(&health["Status"]), last.map_or(String::new(), |last| text(&last["Output"])))
        };
        Some(Container {
            id: value["Id"].as_str()?.into(),
            name: text(&value["Name"]).trim_start_matches('/').into(),
            image: value["Image"].as_str()?.into(),
            image_name: text(&config["Image"]),
            service: text(&config["Labels"]["com.docker.compose.service"]),
            status: state["Status"].as_str()?.into(),
            exit_code: state["ExitCode"].as_i64().unwrap_or_default(),
            restarts: value["RestartCount"].as_u64().unwrap_or_default(),
            started_at: text(&state["StartedAt"]),
            health: state.get("Health").filter(|health| health.is_object()).map(health),
        })
    }
}

/// Compose 2 where docker has it as a plugin, else 1. The plugin is started itself: by way of docker each of its commands takes three
/// times as long to begin.
pub fn tool() -> Result<Tool, String> {
    let format = r#"{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}"#;
    let plugin = docker(QUICK).args(["info", "--format", format]).read().map_err(|error| error.to_string())?;
    match plugin.trim() {
        "" if installed("docker-compose") => Ok(Tool { dialect: Dialect::One, program: "docker-compose".into() }),
        "" => Err("neither docker's plugin compose nor docker-compose is installed on this node".into()),
        plugin => Ok(Tool { dialect: Dialect::Two, program: plugin.into() }),
    }
}

fn docker(deadline: Duration) -> Cmd {
    Cmd::new("docker", deadline)
}

fn project_filter(project: &str) -> String {
    format!("label=com.docker.compose.project={project}")
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}

/// All containers of the project, running or not, but those of `compose run`.
pub fn containers(project: &str) -> Result<Vec<Container>, String> {
    let ids = docker(QUICK).args(["ps", "-aq", "--no-trunc", "--filter", &project_filter(project)]).read();
    let ids = lines(&ids.map_err(|error| error.to_string())?);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let text = match docker(QUICK).arg("inspect").args(&ids).read() {
        Ok(text) => text,
        // One of them may have gone in between.
        Err(Error::Exit { tail, .. }) if tail.contains("No such object") => return containers_again(project),
        Err(error) => return Err(error.to_string()),
    };
    let all: Value = serde_json::from_str(&text).map_err(|error| format!("docker inspect: unexpected answer: {error}"))?;
    let lasting = |value: &&Value| value["Config"]["Labels"]["com.docker.compose.oneoff"] != "True";
    let all = all.as_array().into_iter().flatten().filter(lasting).map(Container::of).collect::<Option<_>>();
    all.ok_or_else(|| format!("docker inspect: unexpected answer: {text}"))
}

fn containers_again(project: &str) -> Result<Vec<Container>, String> {
    std::thread::sleep(Duration::from_millis(100));
    containers(project)
}

/// The last lines that a container printed.
pub fn logs(container: &str) -> String {
    let read = docker(QUICK).args(["logs", "--tail", "10", container]).both();
    read.unwrap_or_else(|error| error.to_string())
}

/// Stops the project's containers, and keeps them from coming back with the engine.
pub fn stop_for_good(project: &str, deadline: Duration) -> Result<(), String> {
    on_containers(project, &["update", "--restart=no"], QUICK)?;
    on_containers(project, &["stop"], deadline)
}

/// Runs `docker <verb>` on all of the project's containers, wherever their checkout is.
fn on_containers(project: &str, verb: &[&str], deadline: Duration) -> Result<(), String> {
    let ids: Vec<String> = containers(project)?.into_iter().map(|container| container.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    docker(deadline).args(verb).args(&ids).run().map_err(|error| error.to_string())
}

pub fn stop(project: &str, deadline: Duration) -> Result<(), String> {
    on_containers(project, &["stop"], deadline)
}

pub fn start(project: &str, deadline: Duration) -> Result<(), String> {
    on_containers(project, &["start"], deadline)
}

/// Removes the project's containers and, if asked, the volumes that compose has made for it.
pub fn remove(project: &str, with_volumes: bool, deadline: Duration) -> Result<(), String> {
    on_containers(project, &["rm", "--force"], deadline)?;
    let volumes = if with_volumes { volumes(project)? } else { Vec::new() };
    volumes.iter().try_for_each(|volume| remove_volume(volume))
}

pub fn remove_volume(volume: &str) -> Result<(), String> {
    docker(QUICK).args(["volume", "rm", volume]).run().map_err(|error| error.to_string())
}

/// The volumes that compose has made for the project.
pub fn volumes(project: &str) -> Result<Vec<String>, String> {
    let names = docker(QUICK).args(["volume", "ls", "-q", "--filter", &project_filter(project)]).read();
    names.map(|names| lines(&names)).map_err(|error| error.to_string())
}

/// Whether the node has all of these images.
pub fn has_images(names: &[String]) -> bool {
    docker(QUICK).args(["image", "inspect", "--format", "{{.Id}}"]).args(names).read().is_ok()
}

/// Gives an image its name back.
pub fn tag(id: &str, name: &str) -> Result<(), Error> {
    docker(QUICK).args(["tag", id, name]).run()
}

impl Project {
    fn compose(&self, deadline: Duration) -> Cmd {
        Cmd::new(&self.tool.program, deadline).args(["-p", &self.name, "-f"]).args([self.folder.join(&self.file)]).cwd(&self.folder)
    }

    pub fn pull(&self, services: &[String], timeouts: &Timeouts) -> Result<(), Error> {
        self.compose(timeouts.pull).arg("pull").args(services).run()
    }

    pub fn build(&self, timeouts: &Timeouts) -> Result<(), Error> {
        self.compose(timeouts.build).arg("build").run()
    }

    /// Containers whose service is gone go, too; `anew`: none that is there is kept as it is.
    pub fn up(&self, anew: bool, timeouts: &Timeouts) -> Result<(), Error> {
        let more: &[&str] = if anew { &["--force-recreate"] } else { &[] };
        self.compose(timeouts.up).args(["up", "-d", "--no-build", "--remove-orphans"]).args(more).run()
    }

    pub fn stop(&self, timeouts: &Timeouts) -> Result<(), Error> {
        self.compose(timeouts.stop).arg("stop").run()
    }

    pub fn down(&self, with_volumes: bool, timeouts: &Timeouts) -> Result<(), Error> {
        let options: &[&str] = if with_volumes { &["-v"] } else { &[] };
        self.compose(timeouts.stop).args(["down", "--remove-orphans"]).args(options).run()
    }

    /// One of the application's own scripts.
    pub fn script(&self, script: &str, args: &[&str], timeouts: &Timeouts) -> Result<(), Error> {
        Cmd::new("sh", timeouts.script).arg(script).args(args).cwd(&self.folder).run()
    }

    pub fn has(&self, file: &str) -> bool {
        Path::new(&self.folder).join(file).is_file()
    }
}
