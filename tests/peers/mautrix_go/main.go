// A device with the crypto machine of mautrix-go and the ratchets of goolm, in memory: mautrix-go USER DEVICE.
//
// It uses the protocol that tests/peers/peer.py describes. Only the client's network access is replaced. The machine's
// background work runs during calls.
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
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

var errLost = errors.New("lost")

// line is a line of input: a call, or the response to a request.
type line struct {
	Call    string          `json:"call"`
	Room    id.RoomID       `json:"room"`
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
	Event   *event.Event    `json:"event"`
	User    id.UserID       `json:"user"`
	Device  id.DeviceID     `json:"device"`
	Scanned []byte          `json:"scanned"`

	Flow id.VerificationTransactionID `json:"flow"`

	Status *int            `json:"status"`
	Body   json.RawMessage `json:"body"`
}

type raised struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// carrier sends HTTP requests as lines, one at a time.
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

// store is the library's in-memory store, except for two methods, which behave like the library's database store.
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

// GetNewestSessionCreationTS returns the creation time of the newest session.
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

// encryption lets the library's client encrypt the verification events that it sends to a room.
type encryption struct {
	driver *driver
}

func (e encryption) Encrypt(
	ctx context.Context, room id.RoomID, kind event.Type, content any,
) (*event.EncryptedEventContent, error) {
	if err := e.driver.share(ctx, room); err != nil {
		return nil, err
	}
	return e.driver.machine.EncryptMegolmEvent(ctx, room, kind, content)
}

func (e encryption) Decrypt(ctx context.Context, encrypted *event.Event) (*event.Event, error) {
	return e.driver.machine.DecryptMegolmEvent(ctx, encrypted)
}

func (e encryption) WaitForSession(context.Context, id.RoomID, id.SenderKey, id.SessionID, time.Duration) bool {
	return false
}

func (e encryption) RequestSession(context.Context, id.RoomID, id.SenderKey, id.SessionID, id.UserID, id.DeviceID) {
}

func (e encryption) Init(context.Context) error { return nil }

// flow is the state of a verification as the library reports it.
type flow struct {
	Phase    string      `json:"phase"`
	Code     string      `json:"code"`
	Decimals []int       `json:"decimals"`
	Emoji    [][2]string `json:"emoji"`
	QRCode   []byte      `json:"qr_code"`
}

func (d *driver) VerificationRequested(
	_ context.Context, name id.VerificationTransactionID, _ id.UserID, _ id.DeviceID,
) {
	d.flows[name] = &flow{Phase: "requested"}
}

func (d *driver) VerificationReady(
	_ context.Context, name id.VerificationTransactionID, _ id.DeviceID, _, _ bool, code *verificationhelper.QRCode,
) {
	d.flows[name] = &flow{Phase: "ready"}
	if code != nil {
		d.flows[name].QRCode = code.Bytes()
	}
}

func (d *driver) VerificationCancelled(
	_ context.Context, name id.VerificationTransactionID, code event.VerificationCancelCode, _ string,
) {
	d.flows[name] = &flow{Phase: "cancelled", Code: string(code)}
}

func (d *driver) VerificationDone(
	_ context.Context, name id.VerificationTransactionID, _ event.VerificationMethod,
) {
	d.flows[name] = &flow{Phase: "done"}
}

func (d *driver) ShowSAS(
	_ context.Context, name id.VerificationTransactionID, emoji []rune, descriptions []string, decimals []int,
) {
	shown := &flow{Phase: "comparing", Decimals: decimals}
	for at, each := range emoji {
		shown.Emoji = append(shown.Emoji, [2]string{string(each), descriptions[at]})
	}
	d.flows[name] = shown
}

func (d *driver) QRCodeScanned(_ context.Context, name id.VerificationTransactionID) {
	d.flows[name] = &flow{Phase: "scanned"}
}

type driver struct {
	client  *mautrix.Client
	rooms   mautrix.StateStore
	store   *store
	machine *crypto.OlmMachine
	since   string
	wedged  []wedged // Devices whose sessions are replaced after the sync, instead of in the background.
	helper  *verificationhelper.VerificationHelper
	flows   map[id.VerificationTransactionID]*flow
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
	made := &driver{
		client: client, rooms: rooms, store: store, machine: machine,
		flows: make(map[id.VerificationTransactionID]*flow),
	}
	client.Crypto = encryption{made}
	syncer.OnEventType(event.EventEncrypted, made.decryptVerification)
	made.helper = verificationhelper.NewVerificationHelper(client, machine, nil, made, true, true, true)
	if err = made.helper.Init(context.Background()); err != nil {
		return nil, err
	}
	machine.NeedsUnwedgeCallback = func(_ context.Context, user id.UserID, key id.SenderKey) {
		made.wedged = append(made.wedged, wedged{user, key})
	}
	return made, machine.Load(context.Background())
}

// decryptVerification passes the encrypted verification events of a room to the library.
func (d *driver) decryptVerification(ctx context.Context, encrypted *event.Event) {
	decrypted, err := d.machine.DecryptMegolmEvent(ctx, encrypted)
	if err != nil {
		return // There is no key, or the event is not for this device.
	}
	asked := decrypted.Type == event.EventMessage && decrypted.Content.AsMessage().MsgType == event.MsgVerificationRequest
	if asked || strings.HasPrefix(decrypted.Type.Type, "m.key.verification.") {
		d.client.Syncer.(mautrix.DispatchableSyncer).Dispatch(ctx, decrypted)
	}
}

func (d *driver) share(ctx context.Context, room id.RoomID) error {
	session, err := d.store.GetOutboundGroupSession(ctx, room)
	if err != nil || (session != nil && session.Shared && !session.Expired()) {
		return err
	}
	members, err := d.rooms.GetRoomJoinedOrInvitedMembers(ctx, room)
	if err != nil {
		return err
	}
	return d.machine.ShareGroupSession(ctx, room, members)
}

// bootstrap creates an identity.
func (d *driver) bootstrap(ctx context.Context) error {
	keys, err := d.machine.GenerateCrossSigningKeys()
	if err != nil {
		return err
	} else if err = d.machine.PublishCrossSigningKeys(ctx, keys, nil); err != nil {
		return err
	} else if err = d.machine.SignOwnDevice(ctx, d.machine.OwnIdentity()); err != nil {
		return err
	}
	return d.machine.SignOwnMasterKey(ctx)
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
	case "bootstrap":
		return nil, d.bootstrap(ctx)
	case "request_verification":
		var name id.VerificationTransactionID
		var err error
		if call.Room == "" {
			name, err = d.helper.StartVerification(ctx, call.User)
		} else {
			name, err = d.helper.StartInRoomVerification(ctx, call.Room, call.User)
		}
		d.flows[name] = &flow{Phase: "requested"}
		return map[string]any{"flow": name}, err
	case "trust":
		device, err := d.machine.GetOrFetchDevice(ctx, call.User, call.Device)
		if err != nil {
			return nil, err
		}
		state, err := d.machine.ResolveTrustContext(ctx, device)
		if err != nil {
			return nil, err
		}
		verified, err := d.machine.IsUserTrusted(ctx, call.User)
		return map[string]any{"verified": verified, "trusted": state >= id.TrustStateCrossSignedVerified}, err
	case "verification":
		names := make(map[string]any)
		for name, each := range d.flows {
			names[string(name)] = each
		}
		return names, nil
	case "accept_verification":
		return nil, d.helper.AcceptVerification(ctx, call.Flow)
	case "start_sas":
		return nil, d.helper.StartSAS(ctx, call.Flow)
	case "confirm_sas":
		return nil, d.helper.ConfirmSAS(ctx, call.Flow)
	case "cancel_verification":
		return nil, d.helper.CancelVerification(ctx, call.Flow, event.VerificationCancelCodeUser, "not now")
	case "scan_qr_code":
		return nil, d.helper.HandleScannedQRData(ctx, call.Scanned)
	case "confirm_scan":
		return nil, d.helper.ConfirmQRCodeScanned(ctx, call.Flow)
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
