package members

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// requestTimeout bounds one question to etcd; a change of the members takes a
	// round of the consensus.
	requestTimeout = 5 * time.Second
	// probeTimeout bounds the question whether anything answers at all.
	probeTimeout = 2 * time.Second
)

// client is a connection to some members, opened for one piece of work: they are
// seldom, and an idle connection would cost memory on every server.
type client struct{ etcd *clientv3.Client }

func (n *Node) connect(endpoints ...string) (*client, error) {
	tls := transport.TLSInfo{
		CertFile:      n.config.Layout.TLS("etcd", "client.crt"),
		KeyFile:       n.config.Layout.TLS("etcd", "client.key"),
		TrustedCAFile: n.config.Layout.TLS("etcd", "server-ca.crt"),
	}
	settings, err := tls.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("could not read etcd's client certificate: %w", err)
	}
	connection, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: settings, DialTimeout: probeTimeout,
		// What fails is in the errors; its own log would say it for every attempt.
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("could not make a client for etcd at %s: %w", strings.Join(endpoints, ", "), err)
	}
	return &client{connection}, nil
}

// listAt asks some members for the list, over a connection of its own.
func (n *Node) listAt(ctx context.Context, endpoints ...string) ([]Member, error) {
	c, err := n.connect(endpoints...)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.list(ctx)
}

func (c *client) close() { _ = c.etcd.Close() }

func (c *client) list(ctx context.Context) ([]Member, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	response, err := c.etcd.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("could not list the members of etcd at %s: %w", strings.Join(c.etcd.Endpoints(), ", "), explained(err))
	}
	return membersOf(response.Members), nil
}

// addLearner adds a member that receives the data and does not vote yet.
func (c *client) addLearner(ctx context.Context, peerURL string) (uint64, []Member, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	response, err := c.etcd.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return 0, nil, fmt.Errorf("etcd does not take %s as a member: %w", peerURL, explained(err))
	}
	return response.Member.ID, membersOf(response.Members), nil
}

// remove takes a member away; one that is gone already is fine.
func (c *client) remove(ctx context.Context, m Member) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.etcd.MemberRemove(ctx, m.ID)
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("etcd does not remove the member %s: %w", m.label(), explained(err))
	}
	return nil
}

// promote makes a learner a voter; one that votes already is fine.
func (c *client) promote(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.etcd.MemberPromote(ctx, id)
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotLearner) {
		return fmt.Errorf("etcd does not let this server vote: %w", explained(err))
	}
	return nil
}

type status struct {
	id      uint64
	learner bool
	leads   bool
}

// status asks one member about itself, which needs no quorum.
func (c *client) status(ctx context.Context, endpoint string) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	response, err := c.etcd.Status(ctx, endpoint)
	if err != nil {
		return status{}, explained(err)
	}
	id := response.Header.MemberId
	return status{id, response.IsLearner, response.Leader == id}, nil
}

// explained says of etcd's own refusals what they wait for.
func explained(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return fmt.Errorf("another server is joining, one at a time does (%w)", err)
	case errors.Is(err, rpctypes.ErrUnhealthy):
		return fmt.Errorf("not every voting member has been connected for 5 s, and the Node of a server that is gone for good has to be deleted first (%w)", err)
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return fmt.Errorf("the members that are left would have no quorum (%w)", err)
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		return fmt.Errorf("it is still receiving the data (%w)", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer in time: it is unreachable or has no quorum (%w)", err)
	}
	return err
}

func membersOf(list []*etcdserverpb.Member) []Member {
	var members []Member
	for _, m := range list {
		members = append(members, Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	return members
}

// label names a member for a person.
func (m Member) label() string {
	if m.Name != "" {
		return m.Name
	}
	return strings.Join(m.PeerURLs, ",")
}
