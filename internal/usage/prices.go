// Package usage says what an answer of the API used and what its headers tell
// about the plan.
//
//  1. It reads foreign bytes only with bounds: a header value, a member or an
//     event that is too long counts as absent, and nothing here panics on it.
//  2. A [Meter] is fed with copies of bytes that have already been passed on. It
//     never holds a stream back, and its memory does not grow with the stream.
//  3. What is not known is counted high: an unknown model costs as much as the
//     dearest one, and an answer that breaks off before it says what it used is
//     charged by an estimate.
package usage

import (
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Tokens is what one request used, as the API counts it.
type Tokens struct {
	Input        int64 // not from a cache
	Output       int64
	CacheRead    int64
	CacheWrite5m int64 // written to the cache for five minutes
	CacheWrite1h int64 // written to the cache for an hour
	WebSearches  int64 // searches that the platform made for the model
}

// Prompt is all that went in, from a cache or not.
func (t Tokens) Prompt() int64 { return t.Input + t.CacheRead + t.CacheWrite5m + t.CacheWrite1h }

// Usage returns t as the hub's record of one request to model.
func (t Tokens) Usage(model string) hub.Usage {
	return hub.Usage{
		InputTokens: t.Input, OutputTokens: t.Output,
		CacheReadTokens: t.CacheRead, CacheWriteTokens: t.CacheWrite5m + t.CacheWrite1h,
		Cost: Cost(model, t),
	}
}

// price is in billionths of a US dollar a token, which is thousandths of a
// dollar for a million tokens.
type price struct {
	input, output, cacheRead, cacheWrite5m, cacheWrite1h int64
	// Above longAbove tokens of prompt the whole request costs longFactor times
	// as much. Zero means that the length does not matter.
	longAbove, longFactor int64
}

// perSearch is the price of one web search, in billionths of a US dollar.
const perSearch = 10_000_000

// list has prices at list, from the provider's pricing page as known in November
// 2026. A key stands for the model of that name and its dated and suffixed
// variants; the longest key that fits is taken.
var list = map[string]price{
	"claude-opus-5-5":   usd(4, 20, 0.2),
	"claude-opus-5":     usd(5, 25, 0.5),
	"claude-opus-4-8":   usd(5, 25, 0.5),
	"claude-opus-4-7":   usd(5, 25, 0.5),
	"claude-opus-4-6":   usd(5, 25, 0.5),
	"claude-opus-4-5":   usd(5, 25, 0.5),
	"claude-opus-4":     usd(15, 75, 1.5),
	"claude-sonnet-5-5": usd(2, 10, 0.1),
	"claude-sonnet-5":   usd(2, 10, 0.2),
	"claude-sonnet-4":   usd(3, 15, 0.3),
	"claude-haiku-5-5":  {100, 500, 10, 125, 200, 100_000, 5},
	"claude-haiku-4-5":  usd(1, 5, 0.1),
	"claude-fable-5-2":  usd(8, 40, 0.2),
	"claude-fable-5-1":  usd(10, 50, 0.25),
	"claude-fable-5":    usd(10, 50, 1),
	"claude-mythos-5-2": usd(8, 40, 0.2),
	"claude-mythos-5-1": usd(10, 50, 0.25),
	"claude-mythos-5":   usd(10, 50, 1),
	"claude-3-opus":     usd(15, 75, 1.5),
	"claude-3-7-sonnet": usd(3, 15, 0.3),
	"claude-3-5-sonnet": usd(3, 15, 0.3),
	"claude-3-5-haiku":  usd(0.8, 4, 0.08),
	"claude-3-haiku":    usd(0.25, 1.25, 0.025),
}

// dearest is the price of a model that the list does not have.
var dearest = usd(15, 75, 1.5)

// usd makes a price from dollars for a million tokens. A cache write costs 1.25
// of the input price for five minutes, and twice as much for an hour.
func usd(input, output, cacheRead float64) price {
	return price{
		input: int64(input * 1000), output: int64(output * 1000), cacheRead: int64(cacheRead * 1000),
		cacheWrite5m: int64(input * 1250), cacheWrite1h: int64(input * 2000),
	}
}

// Known reports whether the price list has model.
func Known(model string) bool { _, ok := lookup(model); return ok }

// Cost returns what t would have cost at list price, rounded up. A model that is
// not in the list is priced as the dearest one.
func Cost(model string, t Tokens) hub.MicroUSD {
	p, ok := lookup(model)
	if !ok {
		p = dearest
	}
	nano := t.Input*p.input + t.Output*p.output + t.CacheRead*p.cacheRead +
		t.CacheWrite5m*p.cacheWrite5m + t.CacheWrite1h*p.cacheWrite1h
	if p.longAbove > 0 && t.Prompt() > p.longAbove {
		nano *= p.longFactor
	}
	nano += t.WebSearches * perSearch
	return hub.MicroUSD((nano + 999) / 1000)
}

// lookup takes names as clouds spell them ("us.anthropic.claude-…-v1:0") too.
func lookup(model string) (price, bool) {
	if i := strings.Index(model, "claude-"); i > 0 {
		model = model[i:]
	}
	for name := model; name != ""; {
		if p, ok := list[name]; ok {
			return p, true
		}
		i := strings.LastIndexAny(name, "-@:[")
		if i < 0 {
			break
		}
		name = name[:i]
	}
	return price{}, false
}
