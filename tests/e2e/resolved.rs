//! What the real binary gives its children, keeps in a checkout, and says of volumes.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::world::Cluster;
use crate::world::outside::World;
use crate::{APP, DATA, PROJECT, URL, all_well, compose, deploy, deployed, shop};

/// Scripts of a repository, git and what it starts, and compose.
#[test]
fn no_child_is_told_how_consul_is_spoken_to() {
    let w = deployed(&["node1", "node2"], "node1", Some("node2"));
    w.commit(URL, "master", &[("docker-compose.yml", &compose("")), ("update.sh", "echo updated")]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "update": true});
    let events = json!([crate::world::event("second", "deploy", &payload)]).to_string();
    let handler = w.handler("node1", &[]).env("CONSUL_HTTP_TOKEN", "secret").env("COMPOSE_FILE", "/etc/passwd");
    handler.env("COMPOSE_PROJECT_NAME", "other").stdin(&events).run().exits(0);
    let programs: Vec<String> = w.effects().iter().map(|e| e.what.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert!(["git", "docker-compose", "sh"].iter().all(|program| programs.iter().any(|it| it == program)), "{programs:?}");
    let told = w.shared.told.lock().unwrap();
    assert!(!told.iter().any(|told| told.contains("CONSUL_") || told.starts_with("docker-compose")), "{told:?}");
}

#[test]
fn what_is_kept_is_for_one_user() {
    let w = deployed(&["node1"], "node1", None);
    let folder =
        std::fs::read_dir(w.deploy_dir("node1")).unwrap().flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(APP));
    let folder = folder.unwrap().path();
    for file in [".handler-compose.json", ".handler-compose.env"] {
        assert_eq!(folder.join(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn what_is_kept_is_part_of_no_image() {
    let w: World = shop(&["node1"]);
    let text = compose("").replace("build: .", "build: {context: ., dockerfile: web.Dockerfile}");
    let files = [("docker-compose.yml", &*text), (".dockerignore", "*.md\n!.handler-compose.json"), ("web.Dockerfile.dockerignore", "")];
    w.commit(URL, "master", &files);
    all_well(&w.deliver_all(&[deploy("first", "node1", None)]));
    let folder = w.deploy_dir("node1").join(format!("{}-{}", crate::APP, crate::id("first")));
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    assert_eq!(read(".dockerignore"), "*.md\n!.handler-compose.json\n.handler-*\n");
    assert_eq!(read("web.Dockerfile.dockerignore"), ".handler-*\n");
}

/// The log of a deploy, the status, and the plan once the repository has been read.
#[test]
fn which_volumes_are_protected_is_said() {
    let w: World = shop(&["node1", "node2"]);
    let text = compose("").replace("'data:/data'", "'data:/data', 'files:/files', 'thumbs:/thumbs'")
        + "  files: {}\n  thumbs: {labels: {com.github.mlfmonde.cluster.disposable: 'true'}}\n";
    w.commit(URL, "master", &[("docker-compose.yml", &text)]);
    let said = [
        format!("volumes protected, moved and snapshotted: {DATA}"),
        format!("volumes NOT protected, kept on the node where they are: {PROJECT}_files"),
        format!("volumes disposable, gone after a move or a destroy: {PROJECT}_thumbs"),
    ];
    let runs = w.deliver_all(&[deploy("first", "node1", Some("node2"))]);
    all_well(&runs);
    let log = &runs.iter().find(|run| run.node == "node1").unwrap().stderr;
    let status = |node: &str| w.handler(node, &["status", "shop"]).run().stdout;
    let payload = json!({"repo": URL, "branch": "master", "master": "node2"}).to_string();
    let plan = |node: &str| w.handler(node, &["plan", "deploy", &payload]).run().stdout;
    for line in &said {
        for text in [log, &status("node1"), &plan("node1")] {
            assert!(text.contains(line), "“{line}” expected in\n{text}");
        }
    }
    // What a node does not know of another's volumes it does not say.
    for text in [status("node2"), plan("node2")] {
        assert!(text.contains(&said[0]) && !text.contains("_files"), "{text}");
    }
}
