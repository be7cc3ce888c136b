//! Stands in for git, docker, docker-compose and sh on the private PATH of a node of the tests' world.
//! It asks the world what to print and how to exit; nothing is decided here.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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
    let request = json!({
        "node": std::env::var("STANDIN_NODE")?,
        "cwd": std::env::current_dir()?,
        "argv": argv,
        "secret": std::env::var("HANDLER_CREDENTIAL").ok(),
    });
    let mut world = UnixStream::connect(std::env::var("STANDIN_WORLD")?)?;
    writeln!(world, "{request}")?;
    let mut answer = String::new();
    world.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
