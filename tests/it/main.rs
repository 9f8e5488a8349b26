//! Everything that needs more than one module: the program as its users run it, on fakes for speed and on this host for real.
//!
//! Modules named `real_…` start machines. They need root, liblxc and about a gigabyte; where that is missing they say so
//! loudly, and in CI they fail.

mod adt;
mod layers;
mod proxy;
mod real_hello;
mod tls;
