//! What an operator keeps for an application outside of its repository: in Consul under `env/<name>`, for the handler alone. Each deploy takes
//! what is there; it moves with the application, and stays when that is destroyed.

use crate::error::{Error, Fault, text_of};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{AppName, VariableName};
use crate::model::variables::Variables;
use crate::outside::consul::Op;
use crate::outside::yaml;

/// What there is, with its index in Consul; 0: nothing.
pub fn read(here: &Here, name: &AppName) -> Result<(Variables, u64), Error> {
    let Some(entry) = here.consul.get(&keys::variables(name))? else { return Ok((Variables::default(), 0)) };
    let what = "variables of an application (handler env NAME clear, and set them anew)";
    let read = Variables::read(&entry.value).map_err(|source| Error::Json { at: format!("{} in Consul", entry.key), what, source })?;
    Ok((read, entry.modify_index))
}

/// Those that have any, deployed or not.
pub fn apps(here: &Here) -> Result<Vec<AppName>, Error> {
    let entries = here.consul.list(keys::VARIABLES)?;
    Ok(entries.iter().filter_map(|entry| AppName::try_from(entry.key.trim_start_matches(keys::VARIABLES)).ok()).collect())
}

pub fn set(here: &Here, name: &AppName, variable: VariableName, value: String) -> Result<(), Error> {
    let (mut variables, index) = read(here, name)?;
    variables.set(variable, value)?;
    replace(here, name, &variables, index)
}

pub fn unset(here: &Here, name: &AppName, variable: &VariableName) -> Result<(), Error> {
    let (mut variables, index) = read(here, name)?;
    if !variables.unset(variable) {
        let of = variables.names().cloned().collect();
        return Err(Fault::NoSuchVariable { name: name.clone(), variable: variable.clone(), of }.into());
    }
    replace(here, name, &variables, index)
}

/// For an editor.
pub fn to_edit(name: &AppName, variables: &Variables) -> String {
    let mut text = format!("# The variables of {name}, as YAML: NAME: \"value\" on a line each.\n");
    for (variable, value) in variables.iter() {
        // JSON's texts are YAML's, too, but for a few characters; and a name may be a word of YAML's: `NULL`.
        let is_text = yaml::read(variable).is_ok_and(|read| read.is_string());
        let quoted = if is_text { variable.to_string() } else { format!("\"{variable}\"") };
        text += &format!("{quoted}: {}\n", escaped(&serde_json::Value::from(&**value).to_string()));
    }
    text
}

/// What YAML takes for the end of a line, or for nothing that a text may have.
fn escaped(json: &str) -> String {
    let is_plain = |c: char| {
        matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && c != '\u{feff}'
    };
    json.chars().map(|c| if is_plain(c) { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) }).collect()
}

/// What it has become there. An error shows no value.
pub fn edited(text: &str) -> Result<Variables, Error> {
    let what = |source| Error::Name { what: "env", source };
    let yaml = yaml::read(text).map_err(|why| Fault::NotEdited { why: why.to_string() })?;
    let mut variables = Variables::default();
    let mapping = match &yaml {
        serde_yaml::Value::Null => return Ok(variables),
        serde_yaml::Value::Mapping(mapping) => mapping,
        _ => return Err(Fault::NotEdited { why: "not NAME: \"value\" on a line each".into() }.into()),
    };
    for (name, value) in mapping {
        let name = VariableName::try_from(name.as_str().unwrap_or_default()).map_err(what)?;
        let Some(value) = value.as_str() else { return Err(Fault::NotEdited { why: format!("{name}: put its value in quotes") }.into()) };
        variables.set(name, value.into())?;
    }
    Ok(variables)
}

/// All of them, unless somebody has changed any since `index`.
pub fn replace(here: &Here, name: &AppName, variables: &Variables, index: u64) -> Result<(), Error> {
    let key = keys::variables(name);
    let held = match (variables.is_empty(), index) {
        (true, 0) => true,
        (true, index) => here.consul.transaction(&[Op::DeleteCas(&key, index)])?,
        (false, index) => here.consul.cas(&key, &text_of(&key, variables)?, index)?.is_some(),
    };
    if held { Ok(()) } else { Err(Fault::ChangedMeanwhile { key }.into()) }
}

/// Also where they cannot be read.
pub fn clear(here: &Here, name: &AppName) -> Result<(), Error> {
    let key = keys::variables(name);
    here.consul.transaction(&[Op::Delete(&key)]).map(drop)?;
    Ok(())
}
