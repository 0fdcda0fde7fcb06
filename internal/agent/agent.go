// Package agent is all that the hub knows about the claude CLI: its files, its
// environment, its flags, its words and its event stream. The CLI itself is
// never changed, linked or scraped.
//
// What it guarantees:
//
//  1. Every parser of foreign bytes is bounded in size and depth, takes any
//     input without a panic, and never puts a token into an error.
//  2. What the CLI wrote survives: fields of a credential file that we do not
//     know come back with the same values.
//  3. A CLI started with [Environ] sees an allow-list of the parent's
//     environment, and nothing in it that holds or outranks a login.
//  4. A credential that is made for a sandbox ([Placeholder],
//     [Credentials.WithoutRefreshToken]) holds no refresh token and no field
//     that we do not know.
//  5. What is written here about the CLI's flags, words and traffic is of version
//     [TestedVersion], and tests run it to hold it to that. [Canary] tells
//     whether another version may be used.
package agent
