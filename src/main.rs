//! Exit code and dispatch only; the library has the map.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use handler::cli::{self, Args, Verb};
use handler::error::{Error, Fault};
use handler::here::{Here, Paths};
use handler::model::order::Order;
use handler::model::text::redacted;
use handler::outside::clock::SystemClock;
use handler::outside::disk::RealDisk;
use handler::outside::doors::{Doors, World};
use handler::outside::http::RealNet;
use handler::outside::interrupt;
use handler::outside::process::RealProcesses;
use handler::outside::{seal, terminal};
use handler::settings::{self, Settings};
use handler::show::history;
use handler::verbs::{self, Failure, Variable};
use handler::{by_name, logger, proxies};
use log::error;

/// Of standard input: 256 events of the largest payload.
const MAX_INPUT: u64 = 64 << 20;

/// An exit status, with what is said on standard error.
struct Ended(u8, String);

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 }, failure.to_string())
    }
}

fn usage(why: impl ToString) -> Ended {
    Ended(2, why.to_string())
}

fn failed(why: impl ToString) -> Ended {
    Ended(1, why.to_string())
}

fn main() -> ExitCode {
    seal::seal();
    let args = cli::parse(std::env::args_os().skip(1)).map_err(|error| usage(format!("{error}; see handler --help")));
    match args.and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended(code, message)) => {
            let message = redacted(&message); // a word of the command line, perhaps
            if !message.is_empty() {
                error!("{message}");
            }
            if !message.is_empty() && !log::log_enabled!(log::Level::Error) {
                eprintln!("handler: {message}"); // the log is not open yet
            }
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<(), Ended> {
    match &args.verb {
        Verb::Print(text) => return print(text),
        Verb::Credential { get } => return answer_git(*get),
        // Whatever hangs: to Consul a check without an end is critical, and takes all services of the node out of DNS.
        Verb::Check => interrupt::at_latest(8, "wrong: the check has not ended within 8 s: something does not answer here".into()),
        Verb::Events if io::stdin().is_terminal() => return Err(usage(cli::usage())),
        _ => {}
    }
    let settings = Settings::from_env().map_err(usage)?;
    let net = RealNet::new(&settings);
    let world = World::new(Doors {
        processes: Box::new(RealProcesses),
        net: Box::new(net),
        clock: Box::new(SystemClock),
        disk: Box::new(RealDisk),
    });
    let paths = Paths::new(&settings.deploy_dir);
    let log_file = args.log_file.clone().unwrap_or_else(|| paths.log());
    // Asking changes nothing, not even the log file; what it has to say goes to standard error.
    let checks = args.verb == Verb::Check && args.verbosity == 0;
    let asks = matches!(
        args.verb,
        Verb::Plan { .. }
            | Verb::Evacuate { plan: true, .. }
            | Verb::Env { what: Variable::List, .. }
            | Verb::Status { .. }
            | Verb::History { .. }
            | Verb::Check
    ) && args.log_file.is_none();
    let prepared = paths.prepare(&world);
    // What the check has to say, it prints.
    let logged = logger::init(if checks { "off" } else { args.level() }, args.json_log, (!asks && prepared.is_ok()).then_some(&*log_file));
    prepared.map_err(failed)?;
    if let Err(why) = logged {
        error!("{why}; the log goes to standard error only");
    }
    let here = Here::new(settings, world);
    match &args.verb {
        Verb::Events => Ok(verbs::events(&here, &input()?, &args.of_worker())?),
        Verb::Request { event, words } => {
            let payload = by_name::payload(&here, event, words).map_err(failed)?;
            if event == "destroy" && !words.yes && !words.is_json() {
                ask(&verbs::plan(&here, event, &payload)?)?;
            }
            Ok(verbs::request(&here, event, &payload, &args.of_worker(), watched, say)?)
        }
        Verb::Plan { event, words } => print(&verbs::plan(&here, event, &by_name::payload(&here, event, words).map_err(failed)?)?),
        Verb::Evacuate { node, to, plan: true } => print(&verbs::plan_evacuation(&here, node, to.as_deref())?),
        Verb::Evacuate { node, to, .. } => Ok(verbs::evacuate(&here, (node, to.as_deref()), &args.of_worker(), watched, say)?),
        Verb::Maintenance { name, on } => Ok(verbs::maintenance(&here, name, *on)?),
        Verb::Env { name, branch, what } => {
            print(&verbs::env(&here, (name, branch.as_deref()), what, value, |text, accept| edit(&here, text, accept))?)
        }
        Verb::History { of, json } => print(&history::history(&here, of.as_deref(), *json).map_err(failed)?),
        Verb::Cancel { id, give_up } => print(&verbs::cancel(&here, id, give_up.as_deref())?),
        Verb::Reconcile => Ok(verbs::reconcile(&here, &args.of_worker())?),
        Verb::Work { name } => Ok(verbs::work(&here, name)?),
        Verb::Replicate { name, now } => Ok(verbs::replicate(&here, name, *now)?),
        Verb::Routes => {
            let settings = settings::Proxies::from_env().map_err(usage)?;
            proxies::apply::routes(&here, &settings).map_err(failed)
        }
        Verb::Status { of, json, watch } => status(&here, of.as_deref(), (args.verbosity > 0, *json), *watch),
        Verb::Probe => verbs::probe(&here, print),
        Verb::Check => {
            let report = verbs::check(&here, &args.of_worker());
            print(&report.text)?;
            if report.wrong == 0 { Ok(()) } else { Err(Ended(1, String::new())) }
        }
        Verb::Print(_) | Verb::Credential { .. } => Ok(()),
    }
}

/// Asks nobody but its environment: the handler that has started git has put there what it may answer. To store or to erase it is not git's.
fn answer_git(get: bool) -> Result<(), Ended> {
    let asked = input()?;
    match settings::credential().and_then(|credential| credential.answer(&asked)).filter(|_| get) {
        Some(answer) => print(&answer),
        None => Ok(()),
    }
}

/// Whether that is meant: what is to be done, and a word of it.
fn ask(what: &str) -> Result<(), Ended> {
    if !io::stdin().is_terminal() {
        return Err(usage("destroy asks whether that is meant, and standard input is no terminal: say --yes"));
    }
    print(&format!("{what}\nDestroy it? Write yes: "))?;
    io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(failed("not destroyed")) }
}

fn status(here: &Here, of: Option<&str>, how: (bool, bool), watch: bool) -> Result<(), Ended> {
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let shown = |text: &str| print(&if colours && !how.1 { coloured(text) } else { text.into() });
    if !watch {
        return verbs::status(here, of, how, shown);
    }
    if !io::stdout().is_terminal() {
        return Err(usage("status --watch draws on a terminal, and standard output is none"));
    }
    loop {
        // From the top of an empty screen.
        print("\x1b[H\x1b[2J")?;
        if let Err(Ended(_, why)) = verbs::status(here, of, how, shown) {
            print(&format!("{why}\n"))?;
        }
        here.world.clock.sleep(std::time::Duration::from_secs(2));
    }
}

/// What is wrong is red, a note yellow.
fn coloured(text: &str) -> String {
    let colour = |line: &str| match line.split(": ").next() {
        Some("wrong") => format!("\x1b[31m{line}\x1b[0m\n"),
        Some("note") => format!("\x1b[33m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(colour).collect()
}

/// From whoever is there, or from standard input, to its end, without the last line's end. One that is closed gives none.
fn value(prompt: &str) -> Result<String, Failure> {
    let unread = |why: String| Failure::Usage(Fault::NoValue { why }.into());
    if io::stdin().is_terminal() {
        return terminal::secret(prompt).map_err(|why| unread(why.to_string()));
    }
    let text = input().map_err(|Ended(_, why)| unread(why))?;
    if text.is_empty() {
        return Err(unread("standard input is empty, and no terminal (docker exec takes -it to ask, -i to read)".into()));
    }
    Ok(text.strip_suffix('\n').unwrap_or(&text).into())
}

fn edit(here: &Here, text: &str, accept: &dyn Fn(&str) -> Result<(), Error>) -> Result<(), Failure> {
    let file = here.paths.to_edit(std::process::id());
    match terminal::edit(text, &file, accept) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Failed(Fault::NotEdited { why: "nothing was changed".into() }.into())),
        Err(why) => Err(Failure::Failed(Fault::NotEdited { why: why.to_string() }.into())),
    }
}

/// Consul's events.
fn input() -> Result<String, Ended> {
    let mut input = String::new();
    let read = io::stdin().lock().take(MAX_INPUT + 1).read_to_string(&mut input);
    read.map_err(|error| usage(format!("standard input: {error}")))?;
    if input.len() as u64 > MAX_INPUT {
        return Err(usage(format!("standard input: longer than {MAX_INPUT} bytes")));
    }
    Ok(input)
}

fn print(text: &str) -> Result<(), Ended> {
    // A reader that has seen enough is no failure.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// From here on Ctrl-C ends no more than the watching.
fn watched(order: &Order) {
    let Order { name, id, .. } = order;
    interrupt::says(format!(
        "\nno longer watched; the order goes on: handler status shows it, and history/{name}/{id} in Consul once it has ended"
    ));
}

/// A line for whoever watches; that nobody does is no failure.
fn say(line: &str) {
    let shown = writeln!(io::stdout(), "{line}");
    if let Err(error) = shown {
        log::debug!("standard output: {error}");
    }
}
