//! The cluster in front of the real binary: processes, sockets, the real clock and a real folder for each node.

mod http;
mod run;
mod world;

use std::fs;
use std::path::Path;

pub use run::Invocation;
pub use world::World;

use super::state::Files;

struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    fn write(&mut self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&mut self, path: &Path) {
        fs::remove_file(path).unwrap();
    }

    fn list(&self, folder: &Path) -> Vec<(String, bool)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir())).collect();
        found.sort();
        found
    }
}
