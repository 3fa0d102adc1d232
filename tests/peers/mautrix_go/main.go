// A device with the crypto machine of mautrix-go and the ratchets of goolm, in memory: mautrix-go USER DEVICE.
//
// It speaks as tests/peers/peer.py describes. Only the client's way to the network is replaced. What the machine does in
// the background, it does while a call is answered.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

var errLost = errors.New("lost")

// line is what is read: a call, or the answer to a request.
type line struct {
	Call    string          `json:"call"`
	Room    id.RoomID       `json:"room"`
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
	Event   *event.Event    `json:"event"`

	Status *int            `json:"status"`
	Body   json.RawMessage `json:"body"`
}

type raised struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// carrier makes HTTP requests by lines, one at a time.
type carrier struct {
	sync.Mutex
	answers chan line
}

func (c *carrier) RoundTrip(request *http.Request) (*http.Response, error) {
	c.Lock()
	defer c.Unlock()
	body := []byte("{}")
	if request.Body != nil {
		sent, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		} else if len(sent) > 0 {
			body = sent
		}
	}
	write(map[string]any{"request": map[string]any{
		"method": request.Method, "path": request.URL.RequestURI(), "body": json.RawMessage(body),
	}})
	answer := <-c.answers
	if answer.Status == nil {
		return nil, errLost
	}
	return &http.Response{
		StatusCode: *answer.Status,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(bytes.NewReader(answer.Body)),
		Request:    request,
	}, nil
}

var output sync.Mutex

func write(value any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(value); err != nil {
		panic(err)
	}
}

// store is the library's store in memory, with two answers of its store in a database, which those in memory differ from.
type store struct {
	*crypto.MemoryStore
	waited time.Duration
}

// GetLatestSession returns the session that decrypted last.
func (s *store) GetLatestSession(ctx context.Context, key id.SenderKey) (*crypto.OlmSession, error) {
	sessions, err := s.GetSessions(ctx, key)
	var latest *crypto.OlmSession
	for _, session := range sessions {
		if latest == nil || session.LastDecryptedTime.After(latest.LastDecryptedTime) {
			latest = session
		}
	}
	return latest, err
}

// GetNewestSessionCreationTS returns when the newest session was made.
func (s *store) GetNewestSessionCreationTS(ctx context.Context, key id.SenderKey) (time.Time, error) {
	sessions, err := s.GetSessions(ctx, key)
	var newest time.Time
	for _, session := range sessions {
		if session.CreationTime.After(newest) {
			newest = session.CreationTime
		}
	}
	return newest.Add(-s.waited), err
}

type wedged struct {
	user id.UserID
	key  id.SenderKey
}

type driver struct {
	client  *mautrix.Client
	rooms   mautrix.StateStore
	store   *store
	machine *crypto.OlmMachine
	since   string
	wedged  []wedged // Their sessions are replaced after the sync, instead of at some time in the background.
}

func newDriver(user id.UserID, device id.DeviceID, network http.RoundTripper) (*driver, error) {
	client, err := mautrix.NewClient("http://homeserver", user, "token")
	if err != nil {
		return nil, err
	}
	client.DeviceID = device
	client.Client = &http.Client{Transport: network}
	rooms := mautrix.NewMemoryStateStore()
	client.StateStore = rooms
	store := &store{crypto.NewMemoryStore(nil), 0}
	machine := crypto.NewOlmMachine(client, nil, store, rooms.(crypto.StateStore))
	syncer := client.Syncer.(mautrix.ExtensibleSyncer)
	syncer.OnSync(machine.ProcessSyncResponse)
	syncer.OnEvent(client.StateStoreSyncHandler)
	syncer.OnEventType(event.StateMember, machine.HandleMemberEvent)
	made := &driver{client, rooms, store, machine, "", nil}
	machine.NeedsUnwedgeCallback = func(_ context.Context, user id.UserID, key id.SenderKey) {
		made.wedged = append(made.wedged, wedged{user, key})
	}
	return made, machine.Load(context.Background())
}

func (d *driver) do(ctx context.Context, call line) (any, error) {
	switch call.Call {
	case "sync":
		response, err := d.client.SyncRequest(ctx, 0, d.since, "", false, "")
		if err != nil {
			return nil, err
		}
		if err = d.client.Syncer.ProcessResponse(ctx, response, d.since); err != nil {
			return nil, err
		}
		d.since = response.NextBatch
		for _, each := range d.wedged {
			d.machine.UnwedgeDevice(ctx, each.user, each.key)
		}
		d.wedged = nil
		return nil, nil
	case "share":
		members, err := d.rooms.GetRoomJoinedOrInvitedMembers(ctx, call.Room)
		if err != nil {
			return nil, err
		}
		return nil, d.machine.ShareGroupSession(ctx, call.Room, members)
	case "encrypt":
		return d.machine.EncryptMegolmEvent(ctx, call.Room, event.NewEventType(call.Type), call.Content)
	case "decrypt":
		call.Event.RoomID = call.Room
		if err := call.Event.Content.ParseRaw(call.Event.Type); err != nil {
			return nil, err
		}
		decrypted, err := d.machine.DecryptMegolmEvent(ctx, call.Event)
		if err != nil {
			return nil, err
		}
		return map[string]any{"type": decrypted.Type.Type, "content": decrypted.Content.Raw}, nil
	case "wait":
		d.store.waited = time.Hour
		return nil, nil
	default:
		return nil, fmt.Errorf("no call %q", call.Call)
	}
}

func code(call string, err error) string {
	var response mautrix.HTTPError
	switch {
	case errors.Is(err, errLost):
		return "lost"
	case errors.As(err, &response):
		return "refused"
	case call == "decrypt":
		return "unreadable"
	default:
		panic(err)
	}
}

func main() {
	calls, answers := make(chan line), make(chan line)
	go func() {
		defer close(calls)
		input := json.NewDecoder(bufio.NewReader(os.Stdin))
		for {
			var read line
			if input.Decode(&read) != nil {
				return
			} else if read.Call != "" {
				calls <- read
			} else {
				answers <- read
			}
		}
	}()
	driver, err := newDriver(id.UserID(os.Args[1]), id.DeviceID(os.Args[2]), &carrier{answers: answers})
	if err != nil {
		panic(err)
	}
	for call := range calls {
		if returned, err := driver.do(context.Background(), call); err != nil {
			write(map[string]any{"raised": raised{code(call.Call, err), err.Error()}})
		} else {
			write(map[string]any{"returned": returned})
		}
	}
}
