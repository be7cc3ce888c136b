//! The handler: a short-lived program on every node of a cluster, started by Consul, that carries out `deploy`, `destroy` and
//! `migrate` for stateful docker-compose applications.
//!

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use log::{debug, error, info};

use handler::cli::{self, Args, Verb};
use handler::here::Node;
use handler::inbox as intake;
use handler::model::event;
use handler::model::event::Asked;
use handler::model::order::{Order, OrderId, Request, State};
use handler::model::time::Time;
use handler::node::reconcile;
use handler::node::store::Store;
use handler::outside::consul::Consul;
use handler::proxies::apply as proxies;
use handler::settings::Settings;
use handler::show::status;
use handler::steps::run;
use handler::{logger, worker as work};

/// Of standard input: 256 events of the largest payload.
const MAX_INPUT: u64 = 64 << 20;

/// Why a run ends with another status than 0.
enum Failure {
    /// 1: at least one event or order failed. Its reason has been logged where it happened, this sums up.
    Failed(String),
    /// 2: wrong usage or unreadable input.
    Usage(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Failure {
        Failure::Failed(error)
    }
}

fn main() -> ExitCode {
    let result = cli::parse(std::env::args_os().skip(1)).map_err(|error| Failure::Usage(format!("{error}; see handler --help")));
    match result.and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (message, code) = match failure {
                Failure::Failed(message) => (message, 1),
                Failure::Usage(message) => (message, 2),
            };
            error!("{message}");
            if !log::log_enabled!(log::Level::Error) {
                eprintln!("handler: {message}"); // the log is not open yet
            }
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Help => return print(cli::USAGE),
        Verb::Version => return print(concat!("handler ", env!("CARGO_PKG_VERSION"), "\n")),
        Verb::Events if io::stdin().is_terminal() => return Err(Failure::Usage(cli::USAGE.into())),
        _ => {}
    }
    let settings = Settings::from_env().map_err(Failure::Usage)?;
    let log_file = args.log_file.clone().unwrap_or_else(|| settings.deploy_dir.join("handler.log"));
    // Asking changes nothing, not even the log file; what it has to say goes to standard error.
    let asks = matches!(args.verb, Verb::Plan { .. } | Verb::Status) && args.log_file.is_none();
    let store = Store::open(&settings.deploy_dir);
    let logged = logger::init(args.level(), args.json_log, (!asks && store.is_ok()).then_some(&*log_file));
    let store = store?;
    if let Err(why) = logged {
        error!("{why}");
    }
    let consul = Consul::from_env(settings.timeouts.consul).map_err(Failure::Usage)?;
    let node = Node::new(settings, consul, store);
    match &args.verb {
        Verb::Events => events(&node),
        Verb::Request { event, json } => request(&node, event, json),
        Verb::Plan { event, json } => print(&work::describe(&node, &planned(&node, event, json)?)?),
        Verb::Reconcile => drain_and_work(&node),
        Verb::Routes => Ok(proxies::routes(&node)?),
        Verb::Status => print(&status::status(&node)?),
        Verb::Help | Verb::Version => Ok(()),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    // A reader that has seen enough is no failure.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// Consul's event watch: a list of events on standard input.
fn events(node: &Node) -> Result<(), Failure> {
    let mut input = String::new();
    let read = io::stdin().lock().take(MAX_INPUT + 1).read_to_string(&mut input);
    read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    if input.len() as u64 > MAX_INPUT {
        return Err(Failure::Usage(format!("standard input: longer than {MAX_INPUT} bytes")));
    }
    let events = event::parse(&input).map_err(Failure::Usage)?;
    let taken = intake::events(node, events);
    let worked = work(node, taken.as_ref().is_ok_and(|taken| taken.new > 0));
    let taken = taken?;
    worked?;
    match taken.failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("failed {failed} of {} events", taken.events))),
    }
}

/// Another watch runs this; what it writes to standard input does not matter.
fn drain_and_work(node: &Node) -> Result<(), Failure> {
    let taken = intake::events(node, Vec::new());
    work(node, false)?;
    taken.map(drop).map_err(Failure::Failed)
}

/// This node's part of everything that is to be done; `told` that there is something new.
fn work(node: &Node, told: bool) -> Result<(), Failure> {
    let _lock = node.store.lock()?;
    node.store.trim_seen()?;
    let mut tally = work::Tally::default();
    work::resume(node, &mut tally)?;
    // Of the whole store: that of a prefix can go back to an earlier one, when a deleted key is forgotten.
    let index = if told { 0 } else { node.consul.index("").map_err(|error| error.to_string())? };
    if tally == work::Tally::default() && node.store.quiet_index() == Some(index) {
        debug!("nothing has changed since there was nothing to do");
        return Ok(());
    }
    // First of all: what must not run here any more.
    let mut unreconciled = reconcile::reconcile(node)?;
    let ordered = work::orders(node, &mut tally);
    let idle = tally == work::Tally::default();
    if tally.handed_over {
        unreconciled = reconcile::reconcile(node)?;
    }
    let none_open = ordered?;
    // 1 is what an empty store answers, whatever comes next; 0 was not asked for.
    if idle && none_open && unreconciled == 0 && index > 1 {
        node.store.set_quiet_index(index)?;
    }
    debug!("{tally:?}, {unreconciled} not as their records say");
    match (tally.failed + tally.left, unreconciled) {
        (0, 0) => Ok(()),
        (0, apps) => Err(Failure::Failed(format!("{apps} applications are not as their records say"))),
        (orders, _) => Err(Failure::Failed(format!("failed {orders} of {} orders", orders + tally.done))),
    }
}

/// An order of one's own: written first, then the bell is rung.
fn request(node: &Node, event: &str, json: &str) -> Result<(), Failure> {
    let request = Request::parse(event, json).map_err(|why| Failure::Usage(format!("{event}: {why}")))?;
    let id = OrderId::new().map_err(|error| format!("/dev/urandom: {error}"))?;
    let order = {
        let _order = logger::order(&id);
        let order = intake::create(&node.consul, id, request).map_err(|error| error.to_string())?;
        let bell = serde_json::json!({ "order": order.id }).to_string();
        if let Err(why) = node.consul.fire(event, &bell) {
            // The order stands in Consul all the same, and is found at each node's next run.
            error!("the other nodes are not told: {why}");
        }
        order
    };
    let worked = work(node, true);
    let _order = logger::order(&order.id);
    let ended = work::follow(node, &order, |progress| info!("{progress}"))?;
    match ended.state {
        State::Done => worked,
        _ => Err(Failure::Failed(format!("{event} {} failed: {}", ended.name, ended.reason.unwrap_or_default()))),
    }
}

fn planned(node: &Node, event: &str, json: &str) -> Result<Order, Failure> {
    let asked = event::asked(event, json).map_err(|why| Failure::Usage(format!("{event}: {why}")))?;
    match asked {
        Asked::Request(request) => {
            let id = OrderId::new().map_err(|error| format!("/dev/urandom: {error}"))?;
            Ok(Order::new(id, request, Time::now()))
        }
        Asked::Order(id) => {
            let entry = node.consul.get(&format!("order/{id}")).map_err(|error| error.to_string())?;
            Ok(run::parse_order(&entry.ok_or_else(|| format!("the order {id} is not open"))?)?)
        }
    }
}
