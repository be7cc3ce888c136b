//! Whether a container is as it should be. Pure.

use std::time::Duration;

use crate::model::time::Time;
use crate::outside::engine::Container;

#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    Good,
    Waiting(String),
    Bad(String),
}

/// Healthy: running and, with a HEALTHCHECK, healthy, else for at least `settle`. One that exited or restarted is not, unless it is a
/// `oneshot` that has done its work.
pub fn health(container: &Container, now: Time, settle: Duration, oneshot: bool) -> Health {
    let Container { name, exit_code, .. } = container;
    if container.restarts > 0 || container.status == "restarting" {
        return Health::Bad(format!("the container {name} restarted (exit code {exit_code})"));
    }
    match (&*container.status, &container.health) {
        ("exited" | "dead", _) if oneshot && *exit_code == 0 => Health::Good,
        ("exited" | "dead", _) => Health::Bad(format!("the container {name} exited with {exit_code}")),
        ("running", Some((health, _))) if health == "healthy" => Health::Good,
        ("running", Some((health, output))) if health == "unhealthy" => {
            Health::Bad(format!("the container {name} is unhealthy: {}", output.trim()))
        }
        ("running", None) => match Time::parse(&container.started_at) {
            Some(started) if now.since(started) < settle => Health::Waiting(format!("the container {name} has only just started")),
            _ => Health::Good,
        },
        ("running", Some(_)) => Health::Waiting(format!("the container {name} is not healthy yet")),
        (status, _) => Health::Waiting(format!("the container {name} is {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers() {
        let container = |status: &str, exit_code, health: Option<&str>| Container {
            id: "1".into(),
            name: "web".into(),
            image: String::new(),
            image_name: String::new(),
            service: "web".into(),
            status: status.into(),
            exit_code,
            restarts: 0,
            started_at: "2026-11-22T17:59:22.5Z".into(),
            health: health.map(|health| (health.into(), "no answer\n".into())),
            oneoff: false,
            restart: crate::outside::engine::Restart::never(),
        };
        let now = Time::parse("2026-11-22T17:59:23Z").unwrap();
        let of = |container: &Container, oneshot| match health(container, now, Duration::from_secs(1), oneshot) {
            Health::Good => "good".to_string(),
            Health::Waiting(why) => format!("waiting: {why}"),
            Health::Bad(why) => format!("bad: {why}"),
        };
        for (status, code, health, expected) in [
            ("running", 0, Some("healthy"), "good"),
            ("running", 0, Some("starting"), "waiting: the container web is not healthy yet"),
            ("running", 0, Some("unhealthy"), "bad: the container web is unhealthy: no answer"),
            ("running", 0, None, "waiting: the container web has only just started"),
            ("exited", 3, None, "bad: the container web exited with 3"),
            ("restarting", 3, None, "bad: the container web restarted (exit code 3)"),
            ("created", 0, None, "waiting: the container web is created"),
        ] {
            assert_eq!(of(&container(status, code, health), false), expected);
        }
        assert_eq!(of(&container("exited", 0, None), true), "good");
        assert_eq!(of(&container("exited", 1, None), true), "bad: the container web exited with 1");
        assert_eq!(of(&Container { started_at: "2026-11-22T17:59:20Z".into(), ..container("running", 0, None) }, false), "good");
        assert!(of(&Container { restarts: 1, ..container("running", 0, Some("healthy")) }, false).starts_with("bad"));
    }
}
