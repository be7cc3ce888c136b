//! The command line: what is asked, and the usage.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::about;
use crate::by_name::Words;
use crate::model::keys::{APPS, CERTIFICATES, CLAIMS, CREDENTIALS, HISTORIES, MAINTENANCES, NODES, ORDERS, REPLICAS, VARIABLES};
use crate::model::order::EVENTS;
use crate::verbs::Variable;

/// A command, what it takes, the flags that go with it and their values, and what it does.
struct Command {
    name: &'static str,
    takes: &'static str,
    flags: &'static [&'static str],
    does: &'static str,
}

const COMMANDS: [Command; 19] = [
    Command {
        name: "deploy",
        takes: "NAME|REPO|JSON",
        flags: &["--branch B", "--master NODE", "--slave NODE|none", "--update"],
        does: "deploy it; what is not said stays as it is",
    },
    Command { name: "destroy", takes: "NAME|JSON", flags: &["--yes"], does: "destroy it; its snapshots are kept" },
    Command { name: "migrate", takes: "NAME TARGET|JSON", flags: &["--no-update"], does: "copy its data to another application" },
    Command {
        name: "evacuate",
        takes: "NODE",
        flags: &["--to NODE", "--plan"],
        does: "move all that runs on a node, to its slave or to NODE",
    },
    Command {
        name: "plan",
        takes: "deploy|destroy|migrate …",
        flags: &["--branch B", "--master NODE", "--slave NODE|none", "--update", "--no-update"],
        does: "print what each node would do; change nothing",
    },
    Command {
        name: "cancel",
        takes: "ID",
        flags: &["--give-up NODE"],
        does: "fail an open order; leave the undo of a failed one on NODE to a person",
    },
    Command { name: "maintenance", takes: "NAME on|off", flags: &[], does: "show the maintenance page, and start nothing of it meanwhile" },
    Command {
        name: "env",
        takes: "NAME|REPO set KEY|unset KEY|list|edit|clear",
        flags: &["--branch B"],
        does: "the variables of an application, passwords among them; set asks for the value, or reads it from standard input",
    },
    Command {
        name: "status",
        takes: "[NAME]",
        flags: &["--json", "--watch"],
        does: "print what is deployed, where, and how it is; -v or of one application: all",
    },
    Command { name: "history", takes: "[NAME|ID]", flags: &["--json"], does: "print the orders that have ended" },
    Command {
        name: "check",
        takes: "",
        flags: &[],
        does: "print what is wrong on this node, and begin what is due (a script check of Consul's)",
    },
    Command {
        name: "probe",
        takes: "",
        flags: &[],
        does: "look at what this node needs: versions, rights, ssh, clocks (check does once an hour)",
    },
    Command {
        name: "replicate",
        takes: "NAME",
        flags: &["--now"],
        does: "take, send, confirm and purge what is due of its replicas here; or a set at once",
    },
    Command { name: "reconcile", takes: "", flags: &[], does: "take part in open orders, compare this node with the records" },
    Command { name: "work", takes: "NAME", flags: &[], does: "the same for one application (what the others start for each)" },
    Command { name: "routes", takes: "", flags: &[], does: "write the proxies' files from the records" },
    Command {
        name: "policy",
        takes: "",
        flags: &[],
        does: "print what a token of Consul's has to allow the handler, for consul acl policy",
    },
    Command { name: "completion", takes: "bash|zsh", flags: &[], does: "print what a shell completes commands by" },
    // git asks this program for what its server asks for; see `outside::git`.
    Command { name: "credential", takes: "get|store|erase", flags: &[], does: "" },
];

pub fn usage() -> String {
    let mut usage = String::from(
        "\
handler - deploys, moves and takes over docker-compose applications on a Consul cluster

usage: handler [OPTIONS] COMMAND
       handler [OPTIONS]              carry out the events on standard input (run by a Consul watch)

commands:
",
    );
    for command in COMMANDS.iter().filter(|command| !command.does.is_empty()) {
        // What plan takes is what the others do.
        let flags = command.flags.iter().filter(|_| command.name != "plan").map(|flag| format!("[{flag}]"));
        let words: Vec<String> =
            [command.name, command.takes].map(str::to_owned).into_iter().chain(flags).filter(|word| !word.is_empty()).collect();
        usage += &format!("  {}\n      {}\n", words.join(" "), command.does);
    }
    usage
        + "
NAME   an application that is deployed: its name, that of its repository, or any part that no other has

JSON   deploy   {\"repo\": URL, \"branch\": B, \"master\": NODE, \"slave\": NODE or null, \"update\": false, \"empty\": false,
                 \"replica\": [SNAPSHOT, …], \"repo_moved\": false}
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
"
}

/// With the commit and its date, where the build knew them.
fn version() -> String {
    let commit = option_env!("HANDLER_COMMIT").map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("handler {}{commit}\n", about::VERSION)
}

/// What the handler needs of a Consul with ACLs, in HCL. A node's agent needs a node identity besides.
fn policy() -> String {
    let keys = [APPS, MAINTENANCES, ORDERS, HISTORIES, NODES, REPLICAS, CERTIFICATES, CREDENTIALS, VARIABLES];
    let keys = keys.map(|prefix| format!("key_prefix \"{prefix}\" {{ policy = \"write\" }}\n")).concat();
    let events = EVENTS.map(|event| format!("event \"{event}\" {{ policy = \"write\" }}\n")).concat();
    format!(
        "{keys}key \"{CLAIMS}\" {{ policy = \"write\" }}
{events}service_prefix \"\" {{ policy = \"write\" }}
node_prefix \"\" {{ policy = \"read\" }}
agent_prefix \"\" {{ policy = \"read\" }}
"
    )
}

/// For bash, and for zsh by its own emulation of that.
fn completion(shell: &str) -> Result<String, String> {
    let begin = match shell {
        "bash" => "",
        "zsh" => "autoload -U +X bashcompinit && bashcompinit\n",
        other => return Err(format!("completion {other}: expected bash or zsh")),
    };
    let known = || COMMANDS.iter().filter(|command| !command.does.is_empty());
    let names: Vec<&str> = known().map(|command| command.name).collect();
    let flags = known().filter(|command| !command.flags.is_empty()).map(|command| {
        let flags: Vec<&str> = command.flags.iter().map(|flag| long(flag)).collect();
        format!("        {}) words=\"{}\";;\n", command.name, flags.join(" "))
    });
    Ok(format!(
        "{begin}_handler() {{
    local word words=\"{}\"
    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        case $word in
        -*) continue;;
{}        *) words=;;
        esac
        break
    done
    COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -F _handler handler
",
        names.join(" "),
        flags.collect::<String>()
    ))
}

/// A flag of the table, without its value.
fn long(flag: &'static str) -> &'static str {
    flag.split(' ').next().unwrap_or(flag)
}

#[derive(Debug, PartialEq)]
pub enum Verb {
    Events,
    Request {
        event: String,
        words: Words,
    },
    Plan {
        event: String,
        words: Words,
    },
    Evacuate {
        node: String,
        to: Option<String>,
        plan: bool,
    },
    Maintenance {
        name: String,
        on: bool,
    },
    Env {
        name: String,
        branch: Option<String>,
        what: Variable,
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
        of: Option<String>,
        json: bool,
        /// Again and again.
        watch: bool,
    },
    History {
        of: Option<String>,
        json: bool,
    },
    Check,
    Probe,
    Credential {
        get: bool,
    },
    /// Text that is known here already.
    Print(String),
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
    let (mut words, mut given, mut asked) = (Vec::new(), Vec::<(&'static str, String)>::new(), None);
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
            Short('h') | Long("help") => asked = asked.or(Some(Verb::Print(usage()))),
            Short('V') | Long("version") => asked = asked.or_else(|| Some(Verb::Print(version()))),
            Long(name) => {
                let mut known = COMMANDS.iter().flat_map(|command| command.flags);
                let Some(flag) = known.find(|flag| long(flag)[2..] == *name) else { return Err(arg.unexpected()) };
                given.push((long(flag), if flag.contains(' ') { parser.value()?.string()? } else { String::new() }));
            }
            Value(word) => words.push(word.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    parsed.verb = match asked {
        Some(asked) => asked,
        None => verb(words, given)?,
    };
    Ok(parsed)
}

fn verb(words: Vec<String>, given: Vec<(&'static str, String)>) -> Result<Verb, String> {
    let mut words = words.into_iter();
    let name = words.next();
    let command = COMMANDS.iter().find(|command| Some(command.name) == name.as_deref());
    if let (Some(name), None) = (&name, command) {
        return Err(format!("unknown command {name:?}"));
    }
    let goes_with = |command: &Command, flag: &str| command.flags.iter().any(|known| long(known) == flag);
    if let Some((flag, _)) = given.iter().find(|(flag, _)| !command.is_some_and(|command| goes_with(command, flag))) {
        let with: Vec<&str> = COMMANDS.iter().filter(|command| goes_with(command, flag)).map(|command| command.name).collect();
        return Err(format!("{flag} goes with {}", with.join(", ")));
    }
    let Some(command) = command else { return Ok(Verb::Events) };
    let value = |flag: &str| given.iter().rfind(|(given, _)| *given == flag).map(|(_, value)| value.clone());
    let is_given = |flag: &str| value(flag).is_some();
    let mut next = |what: &str| words.next().ok_or(format!("{}: expected {what} after it", command.name));
    let mut of = |event: &str| {
        let mut of = vec![next("a name or JSON")?];
        let json = of[0].trim_start().starts_with('{');
        if event == "migrate" && !json {
            of.push(next("NAME TARGET or JSON")?);
        }
        if json && let Some((flag, _)) = given.iter().find(|(flag, _)| *flag != "--yes") {
            return Err(format!("{flag} does not go with JSON: write it there"));
        }
        let update = if is_given("--no-update") { Some(false) } else { is_given("--update").then_some(true) };
        Ok(Words { of, branch: value("--branch"), master: value("--master"), slave: value("--slave"), update, yes: is_given("--yes") })
    };
    let verb = match command.name {
        event if EVENTS.contains(&event) => Verb::Request { event: event.into(), words: of(event)? },
        "plan" => {
            let event = words.next().ok_or("plan: expected deploy, destroy or migrate after it, and what these take")?;
            let mut plan = vec![event];
            plan.extend(words.by_ref());
            let Verb::Request { event, words } = verb(plan, given)? else {
                return Err("plan: expected deploy, destroy or migrate after it".into());
            };
            return Ok(Verb::Plan { event, words });
        }
        "evacuate" => Verb::Evacuate { node: next("the name of a node")?, to: value("--to"), plan: is_given("--plan") },
        "maintenance" => Verb::Maintenance {
            name: next("NAME on|off")?,
            on: match next("NAME on|off")?.as_str() {
                "on" => true,
                "off" => false,
                other => return Err(format!("maintenance: expected on or off, found {other:?}")),
            },
        },
        "env" => {
            let name = next("NAME set KEY|unset KEY|list|edit|clear")?;
            let what = match next("set KEY, unset KEY, list, edit or clear")?.as_str() {
                "set" => Variable::Set(next("the name of a variable")?),
                "unset" => Variable::Unset(next("the name of a variable")?),
                "list" => Variable::List,
                "edit" => Variable::Edit,
                "clear" => Variable::Clear,
                _ => return Err("env: expected set KEY, unset KEY, list, edit or clear after the name".into()),
            };
            if words.next().is_some() {
                // Not shown: it may be one.
                return Err("env: a value is no argument, where others would see it: it is asked for, or read from standard input".into());
            }
            return Ok(Verb::Env { name, branch: value("--branch"), what });
        }
        "reconcile" => Verb::Reconcile,
        "work" => Verb::Work { name: next("the name of an application")? },
        "replicate" => Verb::Replicate { name: next("the name of an application")?, now: is_given("--now") },
        "cancel" => Verb::Cancel { id: next("the ID of an order")?, give_up: value("--give-up") },
        "routes" => Verb::Routes,
        "status" => Verb::Status { of: words.next(), json: is_given("--json"), watch: is_given("--watch") },
        "history" => Verb::History { of: words.next(), json: is_given("--json") },
        "check" => Verb::Check,
        "probe" => Verb::Probe,
        "policy" => Verb::Print(policy()),
        "completion" => Verb::Print(completion(&next("bash or zsh")?)?),
        _ => Verb::Credential { get: words.next().as_deref() == Some("get") },
    };
    match words.next() {
        Some(word) => Err(format!("unexpected argument {word:?}")),
        None => Ok(verb),
    }
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
        let of = |of: &[&str]| Words { of: of.iter().map(|word| (*word).into()).collect(), ..Words::default() };
        let request = |event: &str, words: Words| Ok(Verb::Request { event: event.into(), words });
        assert_eq!(verb(""), Ok(Verb::Events));
        assert_eq!(verb("deploy {}"), request("deploy", of(&["{}"])));
        assert_eq!(verb("migrate {}"), request("migrate", of(&["{}"])));
        let words = Words { master: Some("node2".into()), slave: Some("none".into()), update: Some(true), ..of(&["blog"]) };
        assert_eq!(verb("deploy blog --master node2 --slave=none --update"), request("deploy", words));
        assert_eq!(verb("destroy --yes blog"), request("destroy", Words { yes: true, ..of(&["blog"]) }));
        assert_eq!(verb("migrate blog try --no-update"), request("migrate", Words { update: Some(false), ..of(&["blog", "try"]) }));
        assert_eq!(verb("plan destroy {}"), Ok(Verb::Plan { event: "destroy".into(), words: of(&["{}"]) }));
        let words = Words { branch: Some("b".into()), ..of(&["blog"]) };
        assert_eq!(verb("plan --branch b deploy blog"), Ok(Verb::Plan { event: "deploy".into(), words }));
        assert_eq!(verb("evacuate node1 --plan"), Ok(Verb::Evacuate { node: "node1".into(), to: None, plan: true }));
        assert_eq!(verb("maintenance blog off"), Ok(Verb::Maintenance { name: "blog".into(), on: false }));
        assert_eq!(verb("status --json"), Ok(Verb::Status { of: None, json: true, watch: false }));
        assert_eq!(verb("history blog"), Ok(Verb::History { of: Some("blog".into()), json: false }));
        assert_eq!(verb("-q status -V"), Ok(Verb::Print(version())));
        for (line, error) in [
            ("deploy", "deploy: expected a name or JSON after it"),
            ("deploy {} --master n", "--master does not go with JSON: write it there"),
            ("deploy blog --yes", "--yes goes with destroy"),
            ("migrate blog", "migrate: expected NAME TARGET or JSON after it"),
            ("plan", "plan: expected deploy, destroy or migrate after it, and what these take"),
            ("plan status", "plan: expected deploy, destroy or migrate after it"),
            ("plan destroy blog --update", "--update goes with deploy, plan"),
            ("maintenance blog maybe", "maintenance: expected on or off, found \"maybe\""),
            ("status blog now", "unexpected argument \"now\""),
            ("env blog", "env: expected set KEY, unset KEY, list, edit or clear after it"),
            ("env blog put A", "env: expected set KEY, unset KEY, list, edit or clear after the name"),
            (
                "env blog set A geheim",
                "env: a value is no argument, where others would see it: it is asked for, or read from standard input",
            ),
            ("check --json", "--json goes with status, history"),
            ("--now", "--now goes with replicate"),
            ("restart", "unknown command \"restart\""),
            ("completion fish", "completion fish: expected bash or zsh"),
            ("--log-format xml", "--log-format xml: expected text or json"),
            ("--frobnicate", "invalid option '--frobnicate'"),
        ] {
            assert_eq!(verb(line), Err(error.into()), "{line}");
        }
    }

    /// What bash makes of it is tried where there is one.
    #[test]
    fn completion_and_usage_know_every_command() {
        let (usage, bash) = (usage(), completion("bash").unwrap());
        assert!(completion("zsh").unwrap().ends_with(&bash));
        for command in COMMANDS.iter().filter(|command| !command.does.is_empty()) {
            assert!(
                usage.contains(&format!("\n  {} ", command.name)) || usage.contains(&format!("\n  {}\n", command.name)),
                "{}",
                command.name
            );
            let words = format!(" {} ", bash.lines().nth(1).unwrap().replace('"', " "));
            assert!(words.contains(&format!(" {} ", command.name)) || words.contains(&format!("={} ", command.name)), "{words}");
        }
        assert!(bash.contains("replicate) words=\"--now\";;"), "{bash}");
    }

    #[test]
    fn levels() {
        let level = |line: &'static str| parse(line.split_whitespace()).unwrap().level();
        assert_eq!(["-qq", "-q", "", "-v", "-vv"].map(level), ["error", "warn", "info", "handler=debug", "debug"]);
    }
}
