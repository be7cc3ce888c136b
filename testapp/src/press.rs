//! What WordPress and MariaDB do as far as a cluster notices: the database takes its password when it begins, keeps it in its data, and lets
//! nobody in who says another one; WordPress asks it at each request.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::{end_on_sigterm, keep, setting};

/// As the image's entry script: a folder that is empty is set up, any other is used as it is.
pub fn mariadb() -> io::Result<()> {
    end_on_sigterm();
    let file = PathBuf::from("/var/lib/mysql").join("user");
    if !file.exists() {
        let password = setting("MARIADB_PASSWORD", "");
        if password.is_empty() || setting("MARIADB_RANDOM_ROOT_PASSWORD", "").is_empty() {
            return Err(io::Error::other("database is uninitialized, and no password is said"));
        }
        keep(&file, format!("{} {password}", setting("MARIADB_USER", "")).as_bytes())?;
    }
    let user = fs::read_to_string(&file)?;
    println!("ready for connections");
    for stream in TcpListener::bind("0.0.0.0:3306")?.incoming() {
        let (mut stream, user) = (stream?, user.clone());
        thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            stream.write_all(if line.trim_end() == user { b"OK\n" } else { b"Access denied\n" })
        });
    }
    Ok(())
}

/// What stands on its page.
pub fn page() -> Result<&'static str, &'static str> {
    let asked = || {
        let mut stream = TcpStream::connect(format!("{}:3306", setting("WORDPRESS_DB_HOST", "")))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "{} {}", setting("WORDPRESS_DB_USER", ""), setting("WORDPRESS_DB_PASSWORD", ""))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        io::Result::Ok(line)
    };
    match asked() {
        Ok(line) if line == "OK\n" => Ok("Welcome to WordPress\n"),
        _ => Err("Error establishing a database connection\n"),
    }
}
