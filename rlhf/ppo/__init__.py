"""The details of PPO as pure functions, one place each: state goes in and comes out, sums over processes are passed in."""
