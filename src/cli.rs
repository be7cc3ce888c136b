//! The command line: what is asked, and the usage.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

pub const USAGE: &str = "\
handler - deploys, moves and takes over docker-compose applications on a Consul cluster

usage: handler [OPTIONS]                        carry out the events on standard input (run by a Consul watch)
       handler [OPTIONS] deploy JSON            order it, take part in it, follow it to its end
       handler [OPTIONS] destroy JSON           the same
       handler [OPTIONS] migrate JSON           the same
       handler [OPTIONS] plan EVENT JSON        print what each node would do; change nothing
       handler [OPTIONS] reconcile              take part in open orders, compare this node with the records
       handler [OPTIONS] work NAME              the same for one application (what the others start for each)
       handler [OPTIONS] replicate NAME [--now] take, send, confirm and purge what is due of its replicas here; or a set at once
       handler [OPTIONS] cancel ID [--give-up NODE]   fail an open order; leave the undo of a failed one on NODE to a person
       handler [OPTIONS] routes                 write the proxies' files from the records
       handler [OPTIONS] status [--json]        print what is deployed, where, and which orders are open
       handler [OPTIONS] check                  print what is wrong on this node, and begin what is due (a script check of Consul's)
       handler [OPTIONS] probe                  look at what this node needs: versions, rights, ssh, clocks (check does once an hour)

JSON   deploy   {\"repo\": URL, \"branch\": B, \"master\": NODE, \"slave\": NODE or null, \"update\": false, \"empty\": false}
       destroy  {\"repo\": URL, \"branch\": B}
       migrate  {\"repo\": URL, \"branch\": B, \"target\": {\"repo\": URL, \"branch\": B}, \"update\": true}

options:
  -v, --verbose            log more: -v what commands print, -vv HTTP too
  -q, --quiet              log less: -q warnings and errors, -qq errors
      --log-file FILE      log to FILE besides standard error [default: $DEPLOY_DIR/handler.log]
      --log-format FORMAT  text or json [default: text]
  -h, --help               print this
  -V, --version            print the version

exit status:
  0  all is well, or there was nothing to do
  1  at least one event or order failed; status and check: something is wrong
  2  wrong usage, or unreadable input

environment: DEPLOY_DIR [/deploy], BTRFSDRIVER [anybox/buttervolume:latest], BUTTERVOLUME_SOCKET, CADDY_VERSION [2],
CONSUL_HTTP_ADDR and the other variables of Consul's own command, HANDLER_TIMEOUT_<KIND> in seconds, HANDLER_SETTLE [1],
RUST_LOG
";

#[derive(Debug, PartialEq)]
pub enum Verb {
    Events,
    Request {
        event: String,
        json: String,
    },
    Plan {
        event: String,
        json: String,
    },
    Reconcile,
    Work {
        name: String,
    },
    Replicate {
        name: String,
        /// Whether one is due or not.
        now: bool,
    },
    Cancel {
        id: String,
        give_up: Option<String>,
    },
    Routes,
    Status {
        json: bool,
    },
    Check,
    Probe,
    /// git asks this program for what its server asks for; see `outside::git`.
    Credential {
        get: bool,
    },
    Help,
    Version,
}

#[derive(Debug, PartialEq)]
pub struct Args {
    pub verb: Verb,
    /// How many -v there are more than -q.
    pub verbosity: i32,
    pub log_file: Option<PathBuf>,
    pub json_log: bool,
}

impl Args {
    /// The level of the log: `-v` shows one more, `-q` one less than info.
    pub fn level(&self) -> &'static str {
        match self.verbosity {
            ..=-2 => "error",
            -1 => "warn",
            0 => "info",
            1 => "handler=debug",
            2.. => "debug",
        }
    }
}

impl Args {
    /// The flags of a handler that logs as this one does.
    pub fn of_worker(&self) -> Vec<String> {
        let flag = if self.verbosity < 0 { "-q" } else { "-v" };
        let mut args = vec![flag.to_string(); self.verbosity.unsigned_abs() as usize];
        if let Some(file) = &self.log_file {
            args.extend(["--log-file".into(), file.to_string_lossy().into_owned()]);
        }
        if self.json_log {
            args.extend(["--log-format".into(), "json".into()]);
        }
        args
    }
}

pub fn parse<I>(args: I) -> Result<Args, lexopt::Error>
where
    I: IntoIterator + 'static,
    I::Item: Into<OsString>,
{
    let mut parser = lexopt::Parser::from_args(args);
    let (mut words, mut asked, mut give_up, mut json, mut now) = (Vec::new(), None, None, false, false);
    let mut parsed = Args { verb: Verb::Events, verbosity: 0, log_file: None, json_log: false };
    while let Some(arg) = parser.next()? {
        match arg {
            Short('v') | Long("verbose") => parsed.verbosity += 1,
            Short('q') | Long("quiet") => parsed.verbosity -= 1,
            Long("log-file") => parsed.log_file = Some(parser.value()?.into()),
            Long("log-format") => {
                parsed.json_log = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => return Err(format!("--log-format {other}: expected text or json").into()),
                }
            }
            Long("json") => json = true,
            Long("now") => now = true,
            Long("give-up") => give_up = Some(parser.value()?.string()?),
            Short('h') | Long("help") => asked = asked.or(Some(Verb::Help)),
            Short('V') | Long("version") => asked = asked.or(Some(Verb::Version)),
            Value(word) => words.push(word.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    let mut words = words.into_iter();
    let verb = match words.next().as_deref() {
        None => Verb::Events,
        Some(event) if crate::model::order::EVENTS.contains(&event) => {
            Verb::Request { event: event.into(), json: words.next().ok_or(format!("{event}: expected JSON after it"))? }
        }
        Some("plan") => match (words.next(), words.next()) {
            (Some(event), Some(json)) => Verb::Plan { event, json },
            _ => return Err("plan: expected EVENT JSON after it".into()),
        },
        Some("reconcile") => Verb::Reconcile,
        Some("work") => Verb::Work { name: words.next().ok_or("work: expected the name of an application after it")? },
        Some("replicate") => Verb::Replicate {
            name: words.next().ok_or("replicate: expected the name of an application after it")?,
            now: std::mem::take(&mut now),
        },
        Some("cancel") => Verb::Cancel { id: words.next().ok_or("cancel: expected the ID of an order after it")?, give_up: give_up.take() },
        Some("routes") => Verb::Routes,
        Some("status") => Verb::Status { json: std::mem::take(&mut json) },
        Some("check") => Verb::Check,
        Some("probe") => Verb::Probe,
        Some("credential") => Verb::Credential { get: words.next().as_deref() == Some("get") },
        Some(other) => return Err(format!("unknown command {other:?}").into()),
    };
    if let Some(word) = words.next().filter(|_| asked.is_none()) {
        return Err(format!("unexpected argument {word:?}").into());
    }
    if now && asked.is_none() {
        return Err("--now goes with replicate".into());
    }
    if give_up.is_some() && asked.is_none() {
        return Err("--give-up NODE goes with cancel".into());
    }
    if json && asked.is_none() {
        return Err("--json goes with status".into());
    }
    parsed.verb = asked.unwrap_or(verb);
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(line: &str) -> Result<Verb, String> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        parse(words).map(|args| args.verb).map_err(|error| error.to_string())
    }

    #[test]
    fn commands() {
        assert_eq!(verb(""), Ok(Verb::Events));
        assert_eq!(verb("deploy {}"), Ok(Verb::Request { event: "deploy".into(), json: "{}".into() }));
        assert_eq!(verb("plan destroy {}"), Ok(Verb::Plan { event: "destroy".into(), json: "{}".into() }));
        assert_eq!(verb("-h"), Ok(Verb::Help));
        assert_eq!(verb("-q status -V"), Ok(Verb::Version));
        assert_eq!(verb("deploy"), Err("deploy: expected JSON after it".into()));
        assert_eq!(verb("status now"), Err("unexpected argument \"now\"".into()));
        assert_eq!(verb("status --json"), Ok(Verb::Status { json: true }));
        assert_eq!(verb("check --json"), Err("--json goes with status".into()));
        assert_eq!(verb("restart"), Err("unknown command \"restart\"".into()));
        assert_eq!(verb("--log-format xml"), Err("--log-format xml: expected text or json".into()));
        assert_eq!(verb("--frobnicate"), Err("invalid option '--frobnicate'".into()));
    }

    #[test]
    fn levels() {
        let level = |line: &'static str| parse(line.split_whitespace()).unwrap().level();
        assert_eq!(["-qq", "-q", "", "-v", "-vv"].map(level), ["error", "warn", "info", "handler=debug", "debug"]);
    }
}
