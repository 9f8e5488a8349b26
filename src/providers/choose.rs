//! The one place that names the concrete providers.

use std::path::PathBuf;

use super::Provider;
use super::lxc::{Lxc, LxcHome};
use crate::model::{Failure, Kind};
use crate::store::Store;
