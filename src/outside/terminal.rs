//! The person in front of this process.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{disk, process};

/// A line that is not shown while it is typed. Standard input is to be a terminal.
pub fn secret(prompt: &str) -> io::Result<String> {
    let mut shown = io::stderr().lock();
    write!(shown, "{prompt}")?;
    shown.flush()?;
    let mut line = String::new();
    let read = silently(|| io::stdin().lock().read_line(&mut line));
    writeln!(shown)?;
    read?;
    match line.strip_suffix('\n') {
        Some(line) if !line.contains('\u{3}') => Ok(line.into()),
        _ => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Ctrl-C is a character meanwhile: a process that it ends would leave the terminal mute.
fn silently<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: a plain structure of numbers, which the call fills.
    let mut before: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: it outlives the call.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut mute = before;
    mute.c_lflag &= !(libc::ECHO | libc::ISIG);
    // SAFETY: both outlive the calls.
    let set = |how: &libc::termios| match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    set(&mute)?;
    let read = read();
    set(&before)?;
    read
}

/// Has a person change a text in `$VISUAL`, `$EDITOR` or vi, and gives `accept` what it has become, until it is accepted or is as before. The
/// file is gone afterwards. Answers whether anything was accepted.
pub fn edit<E: std::fmt::Display>(text: &str, file: &Path, accept: impl Fn(&str) -> Result<(), E>) -> io::Result<bool> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".into());
    let mut shown = text.to_string();
    let ended = loop {
        if let Err(why) = write(file, &shown) {
            break Err(why);
        }
        let edited = process::in_front(&editor, file).and_then(|()| fs::read_to_string(file));
        match edited {
            Err(why) => break Err(why),
            Ok(edited) if edited == shown => break Ok(false),
            Ok(edited) => match accept(&edited) {
                Ok(()) => break Ok(true),
                Err(why) => {
                    let said = why.to_string();
                    let own = edited.lines().skip_while(|line| line.starts_with(NOT_TAKEN)).map(|line| format!("{line}\n"));
                    shown = said.lines().map(|line| format!("{NOT_TAKEN}{line}\n")).chain(own).collect();
                }
            },
        }
    };
    let removed = fs::remove_file(file);
    let ended = ended?;
    removed?;
    Ok(ended)
}

/// Begins what is said in the text itself.
const NOT_TAKEN: &str = "# NOT TAKEN: ";

fn write(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(disk::PRIVATE).open(file)?.write_all(text.as_bytes())
}
