//! Everything that needs more than one module: the program as its users run it, on fakes for speed and on this host for real.
//!
//! Modules named `real_…` start machines. They need root, liblxc and about a gigabyte; where that is missing they say so
//! loudly, and in CI they fail.

mod adt;
mod bad_input;
mod bind;
#[path = "../contract/mod.rs"]
mod contract;
mod crash;
mod daemon;
mod dice;
mod dns;
mod fakes;
mod front;
mod fuzz;
mod host;
mod hostile_boxes;
mod hostile_checkout;
mod hostile_kernel;
mod hostile_local;
mod hostile_memory;
mod hostile_neighbour;
mod hostile_network;
mod hostile_page;
mod hostile_platform;
mod hostile_power;
mod hostile_release;
mod hostile_terminal;
mod hostile_traffic;
mod hostile_twin;
mod json;
mod layers;
mod leftovers;
mod log_files;
mod own;
mod protection;
mod proxy;
mod real_bound;
mod real_boxes;
mod real_check;
mod real_clients;
mod real_daemon;
mod real_data;
mod real_deploy;
mod real_fault;
mod real_hello;
mod real_inside;
mod real_kill;
mod real_load;
mod real_logs;
mod real_logs_unit;
mod real_pool;
mod real_power;
mod real_sites;
mod real_snapshots;
mod real_stacks;
mod resolver;
mod served;
mod servers;
mod side_by_side;
mod supply_chain;
mod templates;
mod terminal;
mod tls;
mod two_commands;
mod unfetched;
