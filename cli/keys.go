package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/jetbatch/jetbatch/deploy"
)

type keysCmd struct {
	Dir      string   `arg:"" help:"Folder to write to; it is made if it is not there." type:"path"`
	Hosts    []string `name:"host" help:"Names and addresses by which the server will be reached, for its certificate; nats is its name in Compose." default:"localhost,127.0.0.1,::1,nats" placeholder:"HOST"`
	Days     int      `help:"How long the server's certificate is good; its authority is ten years." default:"730"`
	CAFrom   string   `name:"ca-from" env:"JETBATCH_CA_FROM" help:"Folder of an earlier set: its authority signs, and clients need not learn a new one." type:"path" placeholder:"DIR"`
	Owner    string   `help:"User and group, as numbers, that the files are for; only root can give files away." placeholder:"UID:GID"`
	StoreDir string   `help:"Where the server keeps records. The default is a volume of the containers of Compose and Kubernetes; a server of this machine wants a folder of its own." default:"/data" placeholder:"FOLDER"`
	JSON     bool     `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// keyFile is one file of a set.
type keyFile struct {
	Path   string `json:"path"`
	What   string `json:"what"`
	Secret bool   `json:"secret"`
	data   []byte
}

// keysReport is what jetbatch keys made. Secrets are in the files and nowhere else.
type keysReport struct {
	Dir       string            `json:"dir"`
	Hosts     []string          `json:"hosts"`
	NotAfter  time.Time         `json:"not_after"` // of the server's certificate
	Users     map[string]string `json:"users"`     // public keys by role
	Files     []keyFile         `json:"files"`
	InboxOf   map[string]string `json:"inbox_prefixes"`   // by role
	StoreDir  string            `json:"store_dir"`        // of the server
	Authority string            `json:"authority"`        // whose certificate clients trust
	Start     string            `json:"start_the_server"` // a command
}

// Run makes a set of keys, certificates and configuration for a new deployment.
func (c *keysCmd) Run(_ context.Context, a *app) error {
	if len(c.Hosts) == 0 || c.Days < 1 {
		return fmt.Errorf("%w: --host names at least one host, --days is at least 1", errUsage)
	}
	if strings.ContainsAny(c.StoreDir, "\"\\\n\r") {
		return fmt.Errorf("%w: --store-dir has a quotation mark, a backslash or a line's end in it", errUsage)
	}
	r := &keysReport{
		Dir: c.Dir, Hosts: c.Hosts, StoreDir: c.StoreDir, Users: make(map[string]string), InboxOf: make(map[string]string),
		Authority: filepath.Join(c.Dir, "ca.crt"), Start: fmt.Sprintf("cd %s && nats-server -c nats.conf", filepath.Join(c.Dir, "nats")),
	}
	uid, gid := -1, -1 // nobody else's
	if _, err := fmt.Sscanf(c.Owner, "%d:%d", &uid, &gid); c.Owner != "" && (err != nil || uid < 0 || gid < 0) {
		return fmt.Errorf("%w: --owner is %q and not like 65532:65532", errUsage, c.Owner)
	}
	if err := c.makeCertificates(r); err != nil {
		return err
	}
	if err := c.makeUsers(r); err != nil {
		return err
	}
	if err := writeNew(r.Files, uid, gid); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.out, r)
	}
	return r.print(a.out)
}

func (r *keysReport) add(secret bool, what string, data []byte, path ...string) {
	r.Files = append(r.Files, keyFile{Path: filepath.Join(append([]string{r.Dir}, path...)...), What: what, Secret: secret, data: data})
}

// makeUsers makes a key for every role, and the server's configuration that knows them.
func (c *keysCmd) makeUsers(r *keysReport) error {
	var conf strings.Builder
	conf.WriteString("# Public keys of the roles, made by \"jetbatch keys\". No secrets.\n")
	for _, role := range deploy.Roles {
		pair, err := nkeys.CreateUser()
		if err != nil {
			return err
		}
		seed, err := pair.Seed()
		if err != nil {
			return err
		}
		public, err := pair.PublicKey()
		if err != nil {
			return err
		}
		r.Users[role], r.InboxOf[role] = public, deploy.InboxPrefix(role)
		r.add(true, "seed of the "+role+"'s key", append(seed, '\n'), role+".nk")
		fmt.Fprintf(&conf, "%s_NKEY: %s\n", strings.ToUpper(role), public)
	}
	// keys.conf has keys and nothing else, so that a tenant's account can include it: tenants.conf does.
	server := fmt.Appendf(nil, "JETBATCH_STORE: \"%s\"\n\n%s", c.StoreDir, deploy.SecureConf)
	r.add(false, "configuration of the server", server, "nats", "nats.conf")
	r.add(false, "what each role may do", deploy.PermissionsConf, "nats", "permissions.conf")
	r.add(false, "public keys of the roles", []byte(conf.String()), "nats", "keys.conf")
	return nil
}

// makeCertificates makes an authority, or takes that of an earlier set, and a certificate of the server.
func (c *keysCmd) makeCertificates(r *keysReport) error {
	now := time.Now()
	ca, caKey, err := c.authority(now)
	if err != nil {
		return err
	}
	caPEM, err := keyPEM(caKey)
	if err != nil {
		return err
	}
	r.add(false, "certificate of the authority: clients trust it", certPEM(ca.Raw), "ca.crt")
	r.add(true, "key of the authority: keep it away from the service", caPEM, "ca.key")

	cert := template("jetbatch NATS server", now, now.AddDate(0, 0, c.Days))
	if cert.NotAfter.After(ca.NotAfter) {
		cert.NotAfter = ca.NotAfter
	}
	cert.KeyUsage, cert.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range c.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return fmt.Errorf("%w: certificate for %s: %w", errUsage, strings.Join(c.Hosts, ", "), err)
	}
	serverPEM, err := keyPEM(key)
	if err != nil {
		return err
	}
	r.NotAfter = cert.NotAfter
	r.add(false, "certificate of the server", certPEM(der), "nats", "server.crt")
	r.add(true, "key of the server", serverPEM, "nats", "server.key")
	return nil
}

func (c *keysCmd) authority(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	if c.CAFrom != "" {
		ca, key, err := loadAuthority(c.CAFrom)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: --ca-from: %w", errUsage, err)
		}
		return ca, key, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	ca := template("jetbatch authority", now, now.AddDate(10, 0, 0))
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero = true, true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	ca, err = x509.ParseCertificate(der)
	return ca, key, err
}

func loadAuthority(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	der, err := readPEM(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if der, err = readPEM(filepath.Join(dir, "ca.key")); err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !ca.IsCA || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, fmt.Errorf("%s: ca.crt and ca.key are not an authority that jetbatch made", dir)
	}
	return ca, key, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return block.Bytes, nil
}

// template is what all certificates have. They begin an hour ago, since clocks differ.
func template(name string, now, end time.Time) *x509.Certificate {
	serial := new(big.Int).SetBytes([]byte(rand.Text()[:16]))
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: end}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// writeNew writes files that are not there yet: all of them or none. They are given to uid and gid, unless those are
// -1.
func writeNew(files []keyFile, uid, gid int) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, path := range made {
				_ = os.Remove(path) // the first error is the one to report
			}
		}
	}()
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if f.Secret {
			mode = 0o600
		}
		out, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %s is there already; nothing was written, take another folder", errUsage, f.Path)
		}
		if err != nil {
			return err
		}
		made = append(made, f.Path)
		_, err = out.Write(f.data)
		if err = errors.Join(err, out.Chown(uid, gid), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (r *keysReport) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Files {
		secret := ""
		if f.Secret {
			secret = "SECRET"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Path, secret, f.What)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
the server, as %s until %s:
  %s
its records go to %s

every role, with its own seed and inbox prefix; here a worker:
  export JETBATCH_SERVER=tls://%s:4222 JETBATCH_TLS_CA=%s
  export JETBATCH_NKEY=%s JETBATCH_INBOX_PREFIX=%s
  jetbatch worker

the operator's also suits the nats CLI:
  nats --server tls://%[5]s:4222 --tlsca %[6]s --nkey %[9]s --inbox-prefix %[10]s stream report
`, strings.Join(r.Hosts, ", "), r.NotAfter.Format(time.DateOnly), r.Start, r.StoreDir, r.Hosts[0], r.Authority,
		filepath.Join(r.Dir, "worker.nk"), r.InboxOf["worker"], filepath.Join(r.Dir, "operator.nk"), r.InboxOf["operator"])
	return err
}
