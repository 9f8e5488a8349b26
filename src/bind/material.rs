//! The templates: adt's own in the binary, or those of a folder, which win.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, Result, Server};
use crate::template::{self, Prepared};

#[derive(rust_embed::Embed)]
#[folder = "$CARGO_MANIFEST_DIR/proxy"]
struct Shipped;

pub struct Material {
    server: Server,
    folder: Option<PathBuf>,
}

/// A template's name for messages, and its text.
pub struct Source {
    name: String,
    text: Cow<'static, str>,
}

impl Material {
    pub fn new(server: Server, folder: Option<&Path>) -> Result<Self> {
        Ok(Self { server, folder: folder.map(Path::to_owned) })
    }

    /// One of the server's templates.
    pub fn of_server(&self, name: &str) -> Result<Source> {
        self.read(&format!("{}/{name}", self.server))
    }

    pub fn page(&self) -> Result<Source> {
        self.read("pages/page.html")
    }

    fn read(&self, path: &str) -> Result<Source> {
        if let Some(own) = self.folder.as_ref().map(|folder| folder.join(path)) {
            match std::fs::read_to_string(&own) {
                Ok(text) => return Ok(Source { name: own.display().to_string(), text: text.into() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read the template", &own)(error)),
            }
        }
        let shipped = Shipped::get(path).expect("every template that is asked for is shipped");
        let text = match shipped.data {
            Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).expect("shipped templates are text")),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).expect("shipped templates are text")),
        };
        Ok(Source { name: format!("proxy/{path}"), text })
    }
}

impl Source {
    pub fn render(&self, facts: &Value) -> Result<String> {
        Ok(template::render_own(&self.name, &self.text, facts)?)
    }

    /// For those that are rendered once for each environment.
    pub fn prepare(&self) -> Result<Prepared<'_>> {
        Ok(Prepared::new(&self.name, &self.text)?)
    }
}
