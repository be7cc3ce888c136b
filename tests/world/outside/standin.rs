//! Stands in for git, docker, docker-compose and sh on the private PATH of a node of the tests' world.
//! It asks the world what to print and how to exit; nothing is decided here.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

fn main() -> ExitCode {
    match ask() {
        Ok(answer) => {
            print!("{}", answer["stdout"].as_str().unwrap_or_default());
            eprint!("{}", answer["stderr"].as_str().unwrap_or_default());
            ExitCode::from(answer["status"].as_u64().unwrap_or(1) as u8)
        }
        // The world closes without an answer when it has killed the caller.
        Err(e) => {
            eprintln!("stand-in: {e}");
            ExitCode::from(255)
        }
    }
}

fn ask() -> Result<Value, Box<dyn std::error::Error>> {
    let mut argv: Vec<String> = std::env::args().collect();
    if let Some(program) = argv.first_mut() {
        *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    }
    // Its folder is all that each kind of caller lets it know: <world>/<node>/bin.
    let bin = std::env::var("PATH")?;
    let node = Path::new(&bin).parent().ok_or("PATH")?;
    let told = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("CONSUL_") || name.starts_with("COMPOSE_"));
    let request = json!({
        "node": node.file_name().and_then(|name| name.to_str()),
        "cwd": std::env::current_dir()?,
        "argv": argv,
        "told": told.collect::<Vec<_>>(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
    });
    let mut world = UnixStream::connect(node.with_file_name("world.sock"))?;
    writeln!(world, "{request}")?;
    let mut answer = String::new();
    world.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
